"""At which positions of its text a simulated device drafts another token than the target's."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from foredraft_shared.errors import UsageError
from foredraft_shared.traces import RoundRecord, read_trace

__all__ = ["Pattern", "independent", "recorded"]

_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class Pattern:
    """A repeating sequence of hits and misses; a device begins somewhere in it, so that devices differ."""

    hits: tuple[bool, ...]
    name: str
    """Where it is from, in a few words."""

    @property
    def acceptance(self) -> float:
        """Share of hits: the probability that a drafted token whose predecessors were accepted is accepted."""
        return sum(self.hits) / len(self.hits)

    def hit(self, device: int, position: int) -> bool:
        """Whether ``device`` drafts the target's token at ``position``; always the same answer, as of a real draft."""
        return self.hits[(device * 997 + position) % len(self.hits)]


def independent(acceptance: float, seed: int = 0) -> Pattern:
    """Each position by itself.

    Raises:
        UsageError: ``acceptance`` is no probability.
    """
    if not 0.0 <= acceptance <= 1.0:
        raise UsageError(f"acceptance is {acceptance}; give a number from 0 to 1.")
    dice = random.Random(seed)
    return Pattern(tuple(dice.random() < acceptance for _ in range(_LENGTH)), f"independent, {acceptance:g}")


def recorded(path: Path) -> Pattern:
    """The hits and misses of real drafts, in their order, from a trace (`foredraft generate --trace FILE`).

    A round of ``drafted`` tokens of which ``accepted`` were accepted tells of so many hits, and of a miss if there was
    a further token; what was drafted behind a miss tells nothing.

    Raises:
        UsageError: there is no such trace, or nothing was drafted in it.
    """
    hits = tuple(_hits(read_trace(path).rounds))
    if not hits:
        raise UsageError(f"{path} holds no verified draft; record one with `foredraft generate --trace FILE`.")
    return Pattern(hits, f"recorded in {path.name}")


def _hits(rounds: Iterable[RoundRecord]) -> Iterable[bool]:
    for record in rounds:
        if record.accepted is not None and record.drafted:
            yield from (True,) * record.accepted
            if record.accepted < record.drafted:
                yield False
