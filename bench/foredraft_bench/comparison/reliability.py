"""Whether hints mean what they say: of those given with confidence 0.8, are 80 % right?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["BINS", "Bin", "HintSeen", "expected_calibration_error", "precision", "reliability"]

BINS = 10


@dataclass(frozen=True, slots=True)
class HintSeen:
    """A hint whose verdict is known."""

    exit_layer: int
    confidence: float
    right: bool
    """The verdict said the same: as many tokens accepted, and the same token after them."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Hints of similar confidence: one point of a reliability diagram."""

    lower: float
    upper: float
    count: int
    right: int
    mean_confidence: float

    @property
    def precision(self) -> float:
        """Share that was right."""
        return self.right / self.count


def precision(hints: Sequence[HintSeen]) -> float | None:
    """Share of the hints that was right; ``None`` without hints."""
    return sum(hint.right for hint in hints) / len(hints) if hints else None


def reliability(hints: Iterable[HintSeen]) -> list[Bin]:
    """The hints in :data:`BINS` bins of equal width by confidence, empty ones left out; 1.0 belongs to the last."""
    sorted_in: list[list[HintSeen]] = [[] for _ in range(BINS)]
    for hint in hints:
        sorted_in[min(int(hint.confidence * BINS), BINS - 1)].append(hint)
    return [
        Bin(
            index / BINS,
            (index + 1) / BINS,
            len(held),
            sum(hint.right for hint in held),
            sum(hint.confidence for hint in held) / len(held),
        )
        for index, held in enumerate(sorted_in)
        if held
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float | None:
    """Mean distance between confidence and precision, bins weighted by their hints (Naeini, Cooper and Hauskrecht, AAAI
    2015); 0 is perfect, ``None`` without hints."""
    total = sum(each.count for each in bins)
    if not total:
        return None
    return sum(each.count * abs(each.mean_confidence - each.precision) for each in bins) / total
