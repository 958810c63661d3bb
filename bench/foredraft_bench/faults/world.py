"""Where faults happen: a server that can be killed and started again, devices, and a link for each text."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from typing_extensions import Self

from foredraft_shared.errors import LinkError
from foredraft_shared.messages import SamplingParams, TokenId
from foredraft_shared.models import open_model
from foredraft_shared.transports.link_process import LinkProcess
from foredraft_shared.transports.profiles import profile

from ..processes import CloudProcess, choose_cores, pin
from ..prompts import DEMONSTRATION
from .edge import Order
from .server import HOLD_ENVIRONMENT, TOKENIZER, TOY
from .texts import EdgeProcess

__all__ = ["MODES", "SAMPLINGS", "Settings", "World"]

_GOODBYE_S = 0.2
"""A text that has ended is closed a moment later; if that does not arrive, the server keeps room for it a long while."""

SAMPLINGS = {"greedy": SamplingParams(), "sampled": SamplingParams(temperature=0.8, top_p=0.95, seed=11)}
MODES: dict[str, dict[str, Any]] = {
    "speculate": {"mode": "speculate", "window": 1},
    "cloud": {"mode": "cloud"},
    "chained": {"mode": "speculate", "window": 2},
}
"""Drafting ahead without sending ahead; the cloud alone; drafts that leave before the verdict they build on."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run of the matrix depends on."""

    target: str = TOKENIZER
    """What the server serves; ``toy`` for the toy."""
    draft: str = TOKENIZER
    link: str = "lan"
    """Name of a link profile."""
    max_tokens: int = 96
    strike_at: int = 24
    """The fault comes after so many tokens."""
    stuck_s: float = 5.0
    """How long the server is stuck."""
    crowded_s: float = 3.0
    """How long another session needs the whole cache."""
    cache: int = 40
    """MiB of the server's cache, or pages of the toy's: few, so that there is an end to it."""
    max_sessions: int = 16
    """How many the server holds."""
    message_share: float = 0.05
    """Share of messages that are dropped, doubled or held back."""
    limit_s: float = 30.0
    """A text that has not ended so long after the link is whole again hangs."""

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return dataclasses.asdict(self)


class World:
    """The processes of a run; a context manager.

    Args:
        idle_edges: devices to start at once, beside those that are started when one is wanted.
    """

    def __init__(self, settings: Settings, idle_edges: int = 1) -> None:
        self.settings = settings
        self._cores = choose_cores()
        self._model = TOKENIZER if settings.target == TOY else settings.target
        self._idle: list[EdgeProcess] = []
        self._lock = threading.Lock()
        self._names = 0
        self.prompts: tuple[tuple[TokenId, ...], tuple[TokenId, ...]] = self._encode()
        """Two different ones."""
        os.environ[HOLD_ENVIRONMENT] = str(settings.stuck_s)
        self.server = self._serve("tcp://127.0.0.1:0")
        try:
            self._idle = [self._edge() for _ in range(idle_edges)]
            self.server.wait_until_ready()
            for edge in self._idle:
                edge.wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _encode(self) -> tuple[tuple[TokenId, ...], tuple[TokenId, ...]]:
        if self.settings.target == TOY:
            return (3, 1, 4, 1, 5), (9, 9)
        tokenizer = open_model(self._model).tokenizer
        one, other = (
            tokenizer.encode(tokenizer.chat([{"role": "user", "content": prompt}])) for prompt in DEMONSTRATION[:2]
        )
        return tuple(one), tuple(other)

    # --- the server

    def _serve(self, bind: str) -> CloudProcess:
        options = ["--bind", bind, "--max-sessions", str(self.settings.max_sessions)]
        toy = self.settings.target == TOY
        options += ["--pages" if toy else "--cache-mib", str(self.settings.cache)]
        options += [] if toy else ["--offline"]
        return CloudProcess(self.settings.target, options, self._cores.cloud, program="foredraft_bench.faults.server")

    def restart_server(self) -> float:
        """Start a server where the one before it listened; returns when devices could connect."""
        address = self.server.address
        self.server.close()
        self.server = self._serve(address)
        self.server.wait_until_ready()
        return self.server.ready_at

    def signal_server(self, number: signal.Signals) -> None:
        """Send the server's process a signal."""
        os.kill(self.server.pid, number)

    # --- devices

    def _edge(self) -> EdgeProcess:
        draft = TOY if self.settings.target == TOY else self.settings.draft
        return EdgeProcess(draft, self._model, self._cores.edge)

    def prepare(self, count: int) -> None:
        """Have so many devices idle. A device dies with the thread that started it: let one that lasts do so."""
        with self._lock:
            self._idle = [edge for edge in self._idle if edge.alive]
            self._idle += [self._edge() for _ in range(count - len(self._idle))]

    @contextlib.contextmanager
    def edge(self) -> Iterator[EdgeProcess]:
        """A device, loaded and idle. It may be killed."""
        with self._lock:
            edge = self._idle.pop() if self._idle else self._edge()
        try:
            edge.wait_until_ready()
            yield edge
        finally:
            if edge.alive:
                with self._lock:
                    self._idle.append(edge)
            else:
                edge.close()

    @contextlib.contextmanager
    def link(self) -> Iterator[LinkProcess]:
        """A link to the server, of its own."""
        settings = dataclasses.asdict(profile(self.settings.link))
        with LinkProcess(self.server.address, **settings) as link:
            pin(link.pid, (*self._cores.edge, *self._cores.cloud))
            yield link
            time.sleep(_GOODBYE_S)

    def order(
        self,
        address: str,
        sampling: str,
        mode: str,
        *,
        prompt: int = 0,
        prompt_tokens: Sequence[TokenId] | None = None,
        **changes: Any,
    ) -> Order:
        """An order for a text under a name of its own.

        Args:
            prompt: which of :attr:`prompts`…
            prompt_tokens: …or another one.
            changes: fields of the order that are not as usual.
        """
        with self._lock:
            self._names += 1
            name = f"{self._names} {sampling} {mode}"
        params = SAMPLINGS[sampling]
        fields: dict[str, Any] = {
            "write": name,
            "address": address,
            "prompt": list(prompt_tokens or self.prompts[prompt]),
            "max_tokens": self.settings.max_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "seed": params.seed,
            **MODES[mode],
        }
        return Order(**{**fields, **changes})

    def room(self, max_tokens: int) -> int:
        """Tokens of cache that a text needs, with what is drafted, and pages that are not full."""
        return len(self.prompts[0]) + max_tokens + 128

    def undisturbed(self, sampling: str, mode: str, prompt: int) -> list[TokenId]:
        """What is written when nothing happens.

        Raises:
            LinkError: not even that comes to an end.
        """
        with self.edge() as edge, self.link() as link:
            text = edge.write(self.order(link.address, sampling, mode, prompt=prompt))
            if not text.wait_end(120.0) or text.error:
                raise LinkError(f"the undisturbed text was not written: {text.error or 'it does not end'}")
        return text.tokens

    def close(self) -> None:
        """End everything."""
        for edge in self._idle:
            edge.close()
        with contextlib.suppress(ProcessLookupError):
            self.signal_server(signal.SIGCONT)  # a process that is stopped cannot be ended politely
        self.server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
