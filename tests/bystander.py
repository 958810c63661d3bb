"""A device that does nothing wrong, while others do: it writes text after text, pings, and notes how long it had to wait."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from types import TracebackType

from toy_world import continuation
from typing_extensions import Self

from foredraft_edge.link import Link
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import Close, Failure, Open, SamplingParams, Verdict
from foredraft_shared.transports.base import Transport

__all__ = ["Bystander"]

PROMPT = (3, 1, 4, 1, 5)
TOKENS = 32
PATIENCE_S = 20.0


class Bystander:
    """Writes from ``__enter__`` to ``__exit__``, in a thread; what went wrong for it is raised there.

    Args:
        connect: makes its transport.
    """

    def __init__(self, connect: Callable[[], Transport]) -> None:
        self.longest_ping_ms = 0.0
        """Longest time that an answer of the server's socket thread took."""
        self.longest_verdict_ms = 0.0
        """Longest time that a verdict took."""
        self.tokens = 0
        """How many it got; each was the right one."""
        self._connect = connect
        self._truth = continuation(PROMPT, SamplingParams(), TOKENS)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="bystander")

    def __enter__(self) -> Self:
        self._thread.start()
        while self.tokens == 0 and self._thread.is_alive():
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        link = Link(self._connect(), where="the server")
        try:
            link.greet()
            while not self._stop.is_set():
                self._write(link, secrets.token_bytes(16))  # a name that no stranger has taken by chance
        except BaseException as error:
            self._error = error
        finally:
            link.close()

    def _write(self, link: Link, session: bytes) -> None:
        ledger = Ledger(session, PROMPT)
        link.send(Open(session, PROMPT, max_tokens=TOKENS))
        while len(ledger.written) < TOKENS and not self._stop.is_set():
            begun = time.perf_counter()
            waited_ms = link.ping(len(ledger.written) + 1, PATIENCE_S)
            if waited_ms is None:
                raise TimeoutError(f"no answer to a ping within {PATIENCE_S:g} s")
            self.longest_ping_ms = max(self.longest_ping_ms, waited_ms)
            begun = time.perf_counter()
            link.send(ledger.request(1))
            while not isinstance(said := link.receive(PATIENCE_S), Verdict):
                if isinstance(said, Failure):
                    raise RuntimeError(f"refused: {said}")
                if said is None and time.perf_counter() > begun + PATIENCE_S:
                    raise TimeoutError(f"no verdict within {PATIENCE_S:g} s")
            self.longest_verdict_ms = max(self.longest_verdict_ms, (time.perf_counter() - begun) * 1000.0)
            ledger.commit(said)
            assert list(ledger.written) == self._truth[: len(ledger.written)]
            self.tokens += 1
        link.send(Close(session))
