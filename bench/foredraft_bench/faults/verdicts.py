"""What became of a text that something was done to: one row of the matrix."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .injuries import Injury
from .texts import SAVED, Event, Text

__all__ = ["Row", "judge", "told_in_two"]

_AFTERMATH_S = 0.1
"""What was under way when a connection broke has arrived after so long."""


@dataclass(frozen=True, slots=True)
class Row:
    """One text under one fault. Times in milliseconds, ``None`` where there is nothing to measure; the note says why."""

    fault: str
    sampling: str
    mode: str
    identical: bool
    """Whether the final text is the undisturbed one."""
    lost: int
    """Positions of the undisturbed text that were never told as final."""
    doubled: int
    """Positions that were told as final more than once."""
    hung: bool
    """Whether the text did not come to an end in time."""
    edge_ms: float | None
    """From the moment when the fault is felt to the first token that the device wrote alone. It is felt from the last
    verified token on that came in spite of it before: a server without room, say, goes on for seconds."""
    back_ms: float | None
    """From healing to the first verified token."""
    silence_ms: float | None
    """Longest time without any new token, provisional ones included, from the fault on; not where all had been told."""
    seconds: float
    """From the fault to the end of the text."""
    provisional: int = 0
    """Tokens told before they were verified."""
    revised: int = 0
    """Of those, how many turned out otherwise."""
    counts: dict[str, int] = field(default_factory=dict)
    error: str = ""
    note: str = ""

    @property
    def right(self) -> bool:
        """Whether the text is what it would have been, each token once."""
        return self.identical and not (self.lost or self.doubled or self.hung)

    def worse(self, other: Row) -> Row:
        """This row, as wrong as another text of the same scene was."""
        return dataclasses.replace(
            self,
            identical=self.identical and other.identical,
            lost=self.lost + other.lost,
            doubled=self.doubled + other.doubled,
            hung=self.hung or other.hung,
            error=self.error or other.error,
        )

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return dataclasses.asdict(self)


def judge(
    fault: str,
    sampling: str,
    mode: str,
    told: Sequence[Event],
    text: Text,
    expected: Sequence[int],
    prompt_length: int,
    injury: Injury,
) -> Row:
    """Compare what a caller was told with what it should have been.

    Args:
        told: every token of the text, in the order in which the caller was told.
        text: for how it ended; if it was taken up again, the later part.
        expected: the undisturbed text, without the prompt.
    """
    final = [event for event in told if not event.provisional]
    positions = [event.position for event in final]
    wanted = range(prompt_length, prompt_length + len(expected))
    alone = next((event.at for event in told if event.provisional and event.at > injury.began), None)
    felt = max([injury.began, *(event.at for event in final if alone is not None and event.at < alone)])
    back = None if injury.back_note else _back(final, injury)
    notes = [injury.note]
    if alone is None:
        notes.append(injury.edge_note or "no edge token: verdicts came again before the device went on alone")
    if back is None:
        notes.append(injury.back_note or "no verified token after healing: the text was complete")
    return Row(
        fault=fault,
        sampling=sampling,
        mode=mode,
        identical=[event.token for event in final] == list(expected),
        lost=len(set(wanted) - set(positions)),
        doubled=len(positions) - len(set(positions)),
        hung=text.ended_at is None,
        edge_ms=_milliseconds(alone - felt) if alone is not None else None,
        back_ms=_milliseconds(back - injury.healed) if back is not None else None,
        silence_ms=_silence_ms(told, injury.began, wanted[-1]),
        seconds=round((text.ended_at or injury.healed) - injury.began, 3),
        provisional=sum(event.provisional for event in told),
        revised=sum(event.revised for event in final),
        counts=text.counts,
        error=text.error,
        note="; ".join(note for note in notes if note),
    )


def told_in_two(first: Text, second: Text) -> list[Event]:
    """What somebody was told of one text who saw the first process die and the second one take it up."""
    restored = second.restored or []
    # What had been written, but not told when the first one died, is told by the second for the first time.
    return [*first.events, *restored[len(first.final) :], *second.events]


def _back(final: Sequence[Event], injury: Injury) -> float | None:
    """When the first verified token came that owes itself to the healing."""
    after = [index for index, event in enumerate(final) if event.at > injury.healed and event.origin != SAVED]
    if not after:
        return None
    if injury.healed > injury.began or after[0] == 0:
        return final[after[0]].at
    # Whole again at once: what comes first may have been at the device before. The longest gap that begins soon after
    # is what the fault did.
    near = [index for index in after if final[index - 1].at <= injury.healed + _AFTERMATH_S]
    return final[max(near, key=lambda index: final[index].at - max(final[index - 1].at, injury.healed))].at


def _silence_ms(told: Sequence[Event], began: float, last: int) -> float | None:
    """The longest gap between two tokens of which the second came after the fault; behind the last one nothing is due."""
    pairs = itertools.pairwise(told)
    gaps = [after.at - before.at for before, after in pairs if after.at > began and before.position != last]
    return _milliseconds(max(gaps)) if gaps else None


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
