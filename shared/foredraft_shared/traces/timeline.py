"""Where a round's spans lie on the edge's clock, and which of them the caller had to wait for.

The cloud reports durations, not instants. Between the instant a draft left and the instant its verdict came lie the way
up, the queue, the computation and the way down; two of the four are known, and what remains is the network's. Nothing
tells how the network's share splits, so it is halved: queue and computation stand centred in the round trip.

A streamed token has no message of its own that asked for it, so its way up is unknown: its computation is placed before
the way down, which is taken from the rounds of the same session that have both ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .records import RoundRecord

__all__ = ["Flight", "RoundTime", "attribute", "flights"]


@dataclass(frozen=True, slots=True)
class Flight:
    """A round's way through link and cloud: instants on the edge's clock, in microseconds, ascending."""

    sent_at_us: int
    queued_at_us: int
    computing_at_us: int
    answered_at_us: int
    verdict_at_us: int


def flights(rounds: Iterable[RoundRecord]) -> Iterator[tuple[RoundRecord, Flight | None]]:
    """Every round with its flight; None for a round that had no verdict from the cloud."""
    way_down_us: dict[str, int] = {}
    for record in rounds:
        if record.verdict_at_us is None:
            yield record, None
            continue
        queued, computed = record.cloud_queued_us or 0, record.cloud_computed_us or 0
        verdict = record.verdict_at_us
        if record.sent_at_us is None:
            answered = verdict - way_down_us.get(record.session, 0)
            sent = queued_at = answered - computed - queued
        else:
            sent = record.sent_at_us
            # Clocks of two machines may differ in speed by some parts in a million, and servers may lie.
            network = max(0, verdict - sent - queued - computed)
            way_down_us[record.session] = network // 2
            queued_at = sent + network // 2
            answered = verdict - network // 2
        computing = max(queued_at, min(queued_at + queued, answered))
        yield record, Flight(sent, queued_at, computing, max(computing, answered), verdict)


@dataclass(slots=True)
class RoundTime:
    """What the caller waited for between two commits, in microseconds; the five add up to the time between them."""

    drafting_us: int = 0
    """The edge drafted and nothing was in flight that the caller waited for."""
    network_us: int = 0
    queue_us: int = 0
    compute_us: int = 0
    other_us: int = 0
    """Neither drafting nor in flight: the loop, the caller, the operating system."""
    hidden_drafting_us: int = 0
    """Drafting that took place during the flight of another round, and so cost the caller nothing."""

    @property
    def total_us(self) -> int:
        """From commit to commit."""
        return self.drafting_us + self.network_us + self.queue_us + self.compute_us + self.other_us


def attribute(rounds: Iterable[RoundRecord]) -> Iterator[tuple[RoundRecord, RoundTime]]:
    """Every committed round with what the caller waited for in it.

    The time of a round runs from the commit before it in its session (for the first: from its own first instant) to its
    own. Within it, a stretch belongs to the flight when this round was in flight, else to drafting when this round's
    draft was being made, else to neither.
    """
    committed_before: dict[str, int] = {}
    for record, flight in flights(rounds):
        end = record.committed_at_us
        if end is None:
            continue
        start = committed_before.get(record.session, _first_instant(record, end))
        committed_before[record.session] = end
        time = RoundTime()
        sent, verdict = (flight.sent_at_us, flight.verdict_at_us) if flight else (end, end)
        if flight:
            time.queue_us = _overlap(flight.queued_at_us, flight.computing_at_us, start, end)
            time.compute_us = _overlap(flight.computing_at_us, flight.answered_at_us, start, end)
            time.network_us = _overlap(sent, verdict, start, end) - time.queue_us - time.compute_us
        if record.draft_began_at_us is not None and record.draft_ended_at_us is not None:
            # Before the last commit, this round's draft was made in the shadow of the flight that ended there.
            time.drafting_us = _overlap(record.draft_began_at_us, min(record.draft_ended_at_us, sent), start, end)
            # A draft's span may hold pauses in which the loop only waited; the drafter's own time, where it is known, is
            # the better measure.
            span = record.draft_ended_at_us - record.draft_began_at_us
            drafting = span if record.drafting_us is None else record.drafting_us
            time.drafting_us = min(time.drafting_us, drafting)
            time.hidden_drafting_us = drafting - time.drafting_us
        time.other_us = end - start - time.total_us
        yield record, time


def _first_instant(record: RoundRecord, otherwise: int) -> int:
    instants = [record.draft_began_at_us, record.sent_at_us]
    return min((instant for instant in instants if instant is not None), default=otherwise)


def _overlap(begin: int, end: int, first: int, last: int) -> int:
    return max(0, min(end, last) - max(begin, first))
