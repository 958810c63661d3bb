"""The harness' side of a device's process: orders go in, and texts come out as they are written."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from typing_extensions import Self

from foredraft_shared.errors import LinkError

from .edge import Order

__all__ = ["SAVED", "EdgeProcess", "Event", "Step", "Text"]


SAVED = "saved"
"""Origin of a token that was verified in another process' life, and read from a file."""


@dataclass(frozen=True, slots=True)
class Event:
    """A token as a caller got it."""

    at: float
    """When, by ``time.monotonic``."""
    position: int
    token: int
    origin: str
    provisional: bool = False
    revised: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What a control loop got when it could wait no longer."""

    took_ms: float
    edge: int
    """Tokens that nobody had verified."""
    target: int
    """Verified ones."""


@dataclass(slots=True)
class Text:
    """A text that a device's process writes. Filled by another thread; wait with :meth:`wait`."""

    order: Order
    events: list[Event] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    """If it was written step by step."""
    restored: list[Event] | None = None
    """If it was taken up: what had been written before, at the instant when it was read."""
    ended_at: float | None = None
    error: str = ""
    """Class and message of what ended it, if it was not its end."""
    typed: bool = True
    """Whether the error, if any, is one of foredraft's own."""
    counts: dict[str, int] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def final(self) -> list[Event]:
        """The tokens that were told as final, in the order in which they were told."""
        return [event for event in self.events if not event.provisional]

    @property
    def tokens(self) -> list[int]:
        """The final text, without its prompt."""
        return [event.token for event in self.final]

    def wait(self, condition: Callable[[Text], bool], timeout_s: float) -> bool:
        """Wait until ``condition`` holds; False if it does not in time, or cannot because the text has ended."""
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while not condition(self):
                left = deadline - time.monotonic()
                if left <= 0 or self.ended_at is not None:
                    return False
                self.changed.wait(left)
        return True

    def wait_for(self, count: int, timeout_s: float) -> bool:
        """Wait for so many final tokens."""
        return self.wait(lambda text: len(text.final) >= count, timeout_s)

    def wait_end(self, timeout_s: float) -> bool:
        """Wait until it has ended, in whatever way."""
        self.wait(lambda text: text.ended_at is not None, timeout_s)
        return self.ended_at is not None

    def report(self, said: dict[str, Any]) -> None:
        """Take in what the process said about it."""
        with self.changed:
            if "end" in said:
                self.error = f"{said['end']}: {said['message']}" if said["end"] else ""
                self.typed = said.get("typed", True)
                self.counts = said.get("counts", {})
                self.ended_at = said["at"]
            elif "restored" in said:
                self.restored = [
                    Event(said["at"], position, token, SAVED)
                    for position, token in enumerate(said["restored"], start=said["position"])
                ]
            elif "step_ms" in said:
                self.steps.append(Step(said["step_ms"], said["edge"], said["target"]))
            else:
                self.events.append(
                    Event(
                        said["at"],
                        said["position"],
                        said["token"],
                        said["origin"],
                        said["provisional"],
                        said["revised"],
                    )
                )
            self.changed.notify_all()


class EdgeProcess:
    """A device in a process of its own; a context manager.

    Args:
        draft: what it drafts with (see :mod:`foredraft_edge.drafters`), or the toy.
        model: whose tokenizer it has.
        cores: to compute on; empty for any.
    """

    def __init__(self, draft: str, model: str, cores: Sequence[int] = ()) -> None:
        tether = [str(os.getpid()), ",".join(map(str, cores))]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "foredraft_bench.faults.edge", *tether, draft, model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._texts: dict[str, Text] = {}
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        """Wait until its draft is loaded.

        Raises:
            LinkError: it ended instead, or takes too long.
        """
        if not self._ready.wait(timeout_s) or not self.alive:
            raise LinkError("the device's process did not start; what it said stands above.")

    def write(self, order: Order) -> Text:
        """Have a text written."""
        text = Text(order)
        self._texts[order.write] = text
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(dataclasses.asdict(order)) + "\n")
            self._process.stdin.flush()
        return text

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End it; may be called twice."""
        self._process.kill()
        self._process.wait()
        self._reader.join(5.0)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # an order that it did not live to read
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                said = json.loads(line)
            except ValueError:  # cut off in the middle: the process was killed
                continue
            if "text" in said:
                (self._texts.pop if "end" in said else self._texts.__getitem__)(said["text"]).report(said)
            self._ready.set()
        self._ready.set()  # nobody should wait for the dead
