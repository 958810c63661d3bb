"""One line for each refusal, on the log ``foredraft.audit``; a flood of them is counted, not written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

__all__ = ["Audit", "TokenBucket", "printable", "short"]

LINES_PER_SECOND = 10.0


class TokenBucket:
    """So many a second, and a burst of so many at once."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = self._left = burst
        self._clock = clock
        self._counted_at = clock()

    def take(self, amount: float = 1.0) -> float:
        """Take so many, but never more than the whole burst; returns 0, or the seconds until they will be there."""
        amount = min(amount, self._burst)
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._counted_at) * self._per_second)
        self._counted_at = now
        if self._left < amount:
            return (amount - self._left) / self._per_second
        self._left -= amount
        return 0.0


class Audit:
    """Writes the lines; for any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = structlog.get_logger("foredraft.audit")
        self._lock = threading.Lock()
        self._bucket = TokenBucket(LINES_PER_SECOND, 5 * LINES_PER_SECOND, clock)
        self._left_out = 0

    def refused(self, what: str, **facts: object) -> None:
        """Something was refused: ``what``, in a few words that never change, and to whom."""
        with self._lock:
            if self._bucket.take() > 0.0:
                self._left_out += 1
                return
            if self._left_out:
                facts["left_out"] = self._left_out
                self._left_out = 0
        self._log.warning("refused", what=what, **facts)

    def done(self, what: str, **facts: object) -> None:
        """Something an operator will want to find again was done."""
        self._log.info(what, **facts)


def printable(said: str) -> str:
    """What a device calls itself, fit for a line of a log: short, and without what moves a terminal's cursor."""
    return "".join(character for character in said[:64] if character.isprintable())


def short(public_key: str) -> str:
    """Enough of a key to find it in ``foredraft keys list``."""
    return public_key[:8]
