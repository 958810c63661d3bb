"""What a recorded trace says about drafter, target and link, in the simulator's terms."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from foredraft_shared.errors import UsageError
from foredraft_shared.traces import RoundRecord
from foredraft_shared.traces.reader import Trace

from .virtual_models import Times

__all__ = ["Recorded", "acceptance_by_position", "after_first", "drafting_ms", "recorded"]

_ENOUGH = 20
"""Drafts that must have reached a position before it has an acceptance of its own."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the simulator needs."""

    times: Times
    acceptance: tuple[float, ...]
    """By position in a draft: of the first, second, … token, given those before it."""
    rtt_ms: float


def recorded(trace: Trace) -> Recorded:
    """Drafting time, pass times, acceptance and round trip of a trace.

    Raises:
        UsageError: there are no rounds with drafts in it.
    """
    rounds = [record for record in after_first(trace.rounds) if record.verdict_at_us is not None]
    drafts = [record for record in rounds if record.kind == "speculate" and record.drafted]
    if not drafts:
        raise UsageError("the trace holds no round with a draft; record one with --mode speculate.")
    draft_ms = drafting_ms(after_first(trace.rounds))
    verify_ms = statistics.median(_computed_ms(drafts))
    alone = [record for record in rounds if not record.drafted]
    decode_ms = statistics.median(_computed_ms(alone)) if alone else None
    row_ms = 0.0
    if decode_ms is not None and verify_ms > decode_ms:
        row_ms = (verify_ms - decode_ms) / statistics.mean(record.drafted for record in drafts)
        verify_ms = decode_ms
    ways = [
        (record.verdict_at_us - record.sent_at_us - (record.cloud_queued_us or 0) - (record.cloud_computed_us or 0))
        / 1e3
        for record in drafts
        if record.verdict_at_us is not None and record.sent_at_us is not None and not record.chained
    ]
    return Recorded(
        Times(draft_ms, verify_ms, row_ms, decode_ms),
        acceptance_by_position(drafts),
        max(0.0, statistics.median(ways)) if ways else 0.0,
    )


def drafting_ms(rounds: Iterable[RoundRecord]) -> float:
    """What drafting a token took on average."""
    spent_ms = made = 0.0
    for record in rounds:
        # What was thrown away was drafted, too, be it in rounds that never got a verdict; and so was each guess at the
        # target's own token: a right one stayed, of a wrong one its place is all that is left.
        spent_ms += (record.drafting_us or 0) / 1e3
        if record.verdict_at_us is not None and record.kind == "speculate" and record.drafted:
            made += (record.accepted or 0) + record.discarded
            made += record.guess_hit is not None or record.drafted > (record.accepted or 0)
    return spent_ms / made if made else 0.0


def acceptance_by_position(drafts: Sequence[RoundRecord]) -> tuple[float, ...]:
    """Share of the i-th drafted tokens that were accepted when all before them were; where few were tried, all together."""
    found: list[float] = []
    position = 0
    while True:
        tried = [record for record in drafts if record.drafted > position and (record.accepted or 0) >= position]
        if len(tried) < _ENOUGH:
            if tried or not found:
                accepted = sum((record.accepted or 0) - position for record in tried)
                # Every draft that was not accepted to its end was tried once more than it was accepted.
                rejected = sum((record.accepted or 0) < record.drafted for record in tried)
                found.append(accepted / max(1, accepted + rejected))
            return tuple(found)
        found.append(sum((record.accepted or 0) > position for record in tried) / len(tried))
        position += 1


def after_first(rounds: Iterable[RoundRecord]) -> Iterable[RoundRecord]:
    """All but each session's first round, in which the server read the prompt."""
    seen: set[str] = set()
    for record in rounds:
        if record.session in seen:
            yield record
        seen.add(record.session)


def _computed_ms(rounds: Sequence[RoundRecord]) -> list[float]:
    return [(record.cloud_computed_us or 0) / 1e3 for record in rounds]
