"""How often something may happen: the token bucket of traffic engineering (Turner, 1986)."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["TokenBucket"]


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
