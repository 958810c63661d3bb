"""Where the time of a trace goes, added up."""

from __future__ import annotations

from dataclasses import dataclass, field

from .reader import Trace
from .timeline import RoundTime, attribute

__all__ = ["Summary", "summarise"]


@dataclass(slots=True)
class Summary:
    """Sums over the committed rounds of one kind."""

    kind: str
    rounds: int = 0
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    discarded: int = 0
    guesses: int = 0
    guesses_hit: int = 0
    hints: int = 0
    hints_right: int = 0
    overhead_us: int = 0
    """As the loop measured itself."""
    bytes: int = 0
    """Both ways, frames included."""
    time: RoundTime = field(default_factory=RoundTime)

    def ms_per_token(self, microseconds: int) -> float:
        """A sum of this summary, as milliseconds for each committed token."""
        return microseconds / 1000 / self.tokens if self.tokens else 0.0


def summarise(trace: Trace) -> list[Summary]:
    """One summary for each kind of round in the trace, in order of first appearance."""
    by_kind: dict[str, Summary] = {}
    for record, time in attribute(trace.rounds):
        total = by_kind.setdefault(record.kind, Summary(record.kind))
        total.rounds += 1
        total.tokens += record.committed
        total.drafted += record.drafted
        total.accepted += record.accepted or 0
        total.discarded += record.discarded
        total.guesses += record.guess_hit is not None
        total.guesses_hit += record.guess_hit is True
        total.hints += len(record.hints)
        total.hints_right += sum(
            (hint.accepted, hint.token) == (record.accepted, record.token) for hint in record.hints
        )
        total.overhead_us += record.overhead_us
        total.bytes += record.bytes_up + record.bytes_down
        for name in RoundTime.__dataclass_fields__:
            setattr(total.time, name, getattr(total.time, name) + getattr(time, name))
    return list(by_kind.values())
