"""Time as an argument, so that tests can hold it still."""

from __future__ import annotations

import heapq
import time
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Seconds since some moment, never running backwards."""

    def now(self) -> float:
        """Seconds."""

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass."""

    def remind(self, at: float) -> None:
        """Something will happen at ``at``: a clock that moves by jumps must not jump past it."""


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))

    def remind(self, at: float) -> None:
        pass  # it stops for nobody


class ManualClock:
    """Stands still until somebody waits: then it jumps to what happens next."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._reminders: list[float] = []

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.advance(max(0.0, seconds))

    def remind(self, at: float) -> None:
        if at > self._now:
            heapq.heappush(self._reminders, at)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass at once."""
        self._set(self._now + seconds)

    def wait_until(self, at: float) -> None:
        """Jump to the next reminder or to ``at``, whichever comes first."""
        target = min(at, self._reminders[0]) if self._reminders else at
        if target > self._now:
            self._set(target)

    def _set(self, now: float) -> None:
        self._now = now
        while self._reminders and self._reminders[0] <= self._now:
            heapq.heappop(self._reminders)
