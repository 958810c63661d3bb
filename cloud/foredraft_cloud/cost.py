"""What a pass over so many rows takes, learnt from the passes themselves.

Rows are counted in the steps in which a pass grows dearer (it is padded to such counts anyway), and each step keeps a moving
average. Between two steps the time is interpolated; beyond the largest it grows as the last two do.
"""

from __future__ import annotations

__all__ = ["PassCost"]

_STEPS = (1, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_ENOUGH = 3
"""Passes of a step before its average is believed."""
_SHARE = 0.2
"""Of the newest pass in the average: the last ten or so decide."""


class PassCost:
    """Microseconds by rows."""

    def __init__(self) -> None:
        self._average: dict[int, float] = {}
        self._count: dict[int, int] = {}

    def observe(self, rows: int, microseconds: float) -> None:
        """A pass over ``rows`` took so long."""
        step = _step(rows)
        count = self._count[step] = self._count.get(step, 0) + 1
        known = self._average.get(step, microseconds)
        # The plain mean of the first few, so that a slow first pass does not weigh more than the rest.
        self._average[step] = known + (microseconds - known) * max(_SHARE, 1.0 / count)

    def estimate(self, rows: int) -> float | None:
        """What a pass over ``rows`` would take; ``None`` while too little is known to say."""
        known = [step for step in sorted(self._average) if self._count[step] >= _ENOUGH]
        step = _step(rows)
        if step in known:
            return self._average[step]
        if len(known) < 2:
            return None
        below = max((each for each in known if each < step), default=known[0])
        above = min((each for each in known if each > step), default=known[-1])
        if below == above or below not in known or above not in known:  # beyond either end
            below, above = (known[0], known[1]) if step < known[0] else (known[-2], known[-1])
        slope = (self._average[above] - self._average[below]) / (above - below)
        return max(0.0, self._average[below] + slope * (step - below))

    def line(self, far: int = 8) -> tuple[float, float] | None:
        """A pass over one row, and what each further one adds up to ``far`` rows (0 while that is not known)."""
        one, many = self.estimate(1), self.estimate(far)
        if one is None:
            return None
        return one, max(0.0, many - one) / (far - 1) if many is not None else 0.0


def _step(rows: int) -> int:
    return next((step for step in _STEPS if step >= rows), rows)
