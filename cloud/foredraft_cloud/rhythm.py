"""How regularly a device answers a verdict with its next round."""

from __future__ import annotations

__all__ = ["Rhythm"]

_ENOUGH = 4
_SHARE = 0.25
_REGULAR = 0.25
"""Rounds that come off their time by more than this share of it, on average, are not expected."""


class Rhythm:
    """Moving averages of the time between a verdict and the next round, and of how far it strays."""

    def __init__(self) -> None:
        self._count = 0
        self._mean_us = 0.0
        self._strays_us = 0.0

    def observe(self, gap_us: float) -> None:
        """A round came so long after the verdict before it."""
        self._count += 1
        if self._count == 1:
            self._mean_us = gap_us
            return
        share = max(_SHARE, 1.0 / self._count)
        self._strays_us += (abs(gap_us - self._mean_us) - self._strays_us) * share
        self._mean_us += (gap_us - self._mean_us) * share

    @property
    def gap_us(self) -> float | None:
        """By when the next one will probably have come; ``None`` where there is no telling."""
        if self._count < _ENOUGH or self._strays_us > _REGULAR * self._mean_us:
            return None
        return self._mean_us + self._strays_us
