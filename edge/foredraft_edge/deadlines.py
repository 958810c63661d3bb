"""By when the caller wants the text, or a part of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

from foredraft_shared.errors import UsageError
from foredraft_shared.messages import Position

__all__ = ["Deadlines", "deadline_in"]

_LONGEST_MS = 1e12
"""What is longer than thirty years is no hurry."""


def deadline_in(deadline_ms: float, now_ns: int) -> int:
    """The instant so many milliseconds from now.

    Raises:
        UsageError: it is no time.
    """
    if not isinstance(deadline_ms, Real) or not 0 < deadline_ms < math.inf:
        raise UsageError(f"deadline_ms is {deadline_ms!r}; give a time in milliseconds above 0.")
    return now_ns + int(min(float(deadline_ms), _LONGEST_MS) * 1e6)


@dataclass(slots=True)
class Deadlines:
    """Instants of ``clock_ns``; ``None`` where there is no hurry."""

    clock_ns: Callable[[], int]
    text_ns: int | None = None
    """When the text ends, however far it is."""
    step_ns: int | None = None
    """When the caller wants to go on with what there is."""
    step_until: Position = 0
    """How far the caller wants the text by then."""

    @property
    def text_over(self) -> bool:
        return self.text_ns is not None and self.clock_ns() >= self.text_ns

    @property
    def late(self) -> bool:
        """Whether a deadline has passed."""
        return self.left_ms <= 0

    @property
    def left_ms(self) -> float:
        """Milliseconds until the next of them."""
        instants = [instant_ns for instant_ns in (self.text_ns, self.step_ns) if instant_ns is not None]
        return (min(instants) - self.clock_ns()) / 1e6 if instants else float("inf")
