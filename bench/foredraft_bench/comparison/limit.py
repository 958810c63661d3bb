"""How far a text is from the fastest that its target allows, and what the distance consists of.

The limit is the time the rounds would take if drafting, round trip and overhead were free: the time of the cloud's passes.
A round whose pass takes ``verify`` and which commits ``accepted + 1`` tokens then gives a token every ``verify / (accepted
+ 1)``. Everything else between the first token and the last is distance, and has one of four causes.

To find the cause, one has to sit with the cloud and ask, whenever it does nothing for this text: what is it waiting for?
(Seen from the device, a chained round seems to wait for the network although the cloud never stood still.) So time is cut
at the instants at which the cloud had an answer ready, as :mod:`foredraft_shared.traces.timeline` places them on the
device's clock. Between two of them lies this round's pass, and what comes before it is, in this order of precedence:

* *queue*: the draft was there and the cloud was busy with others;
* *network*: the draft was on its way up, or the verdict it had to wait for on its way down;
* *drafting*: the device was still drafting, or its draft model still reading the prompt before the first draft;
* *overhead*: none of these: loop, sockets, threads, and what the caller takes to look at a token.

A chained draft waits for no verdict; if it left late, that is drafting's doing before it is the network's. A streamed token
waits for nobody: what lies between two passes is overhead. How a round trip splits into up and down is not known and taken
as equal; so a network may come out slightly below zero where there was nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from foredraft_shared.traces import RoundRecord
from foredraft_shared.traces.timeline import Flight, flights

from ..metrics import Answer

__all__ = ["NO_PARTS", "Parts", "divide"]


@dataclass(frozen=True, slots=True)
class Parts:
    """The time between the first token and the last, in milliseconds; the five add up to it."""

    limit_ms: float
    """The passes of the target."""
    network_ms: float
    drafting_ms: float
    queue_ms: float
    overhead_ms: float

    @property
    def total_ms(self) -> float:
        return self.limit_ms + self.network_ms + self.drafting_ms + self.queue_ms + self.overhead_ms

    def __add__(self, other: Parts) -> Parts:
        return Parts(
            self.limit_ms + other.limit_ms,
            self.network_ms + other.network_ms,
            self.drafting_ms + other.drafting_ms,
            self.queue_ms + other.queue_ms,
            self.overhead_ms + other.overhead_ms,
        )

    def per(self, tokens: int) -> Parts:
        """The same for one of so many tokens."""
        return Parts(
            self.limit_ms / tokens,
            self.network_ms / tokens,
            self.drafting_ms / tokens,
            self.queue_ms / tokens,
            self.overhead_ms / tokens,
        )


NO_PARTS = Parts(0.0, 0.0, 0.0, 0.0, 0.0)


def divide(answer: Answer) -> Parts | None:
    """The parts of an answer's time from its first token to its last; ``None`` where that cannot be told: a mode without
    rounds, or a text of one commit."""
    rounds = [
        (record, flight)
        for record, flight in flights(answer.records)
        if flight is not None and record.committed and record.committed_at_us is not None
    ]
    if len(rounds) < 2:
        return None
    verify_us = network_us = drafting_us = queue_us = 0
    # Nobody writes down how long the draft model reads the prompt; it does so before the first draft.
    reads_until = next((record for record, _ in rounds if record.drafted), None)
    for (_, before), (record, flight) in pairwise(rounds):
        computed_us = record.cloud_computed_us or 0
        spent = _spent(before, record, flight, reads=record is reads_until)
        verify_us += computed_us
        queue_us += spent["queue"]
        drafting_us += spent["drafting"]
        network_us += spent["network"]
        if record.sent_at_us is not None:
            # A pass that seems to have begun before the answer before it was ready: the ways were not equally long.
            network_us += spent["verify"] - computed_us
    network_us += _way_down_us(rounds[-1][1]) - _way_down_us(rounds[0][1])
    measured_ms = answer.arrived_ms[-1] - answer.arrived_ms[0]
    known_ms = (verify_us + network_us + drafting_us + queue_us) / 1000.0
    return Parts(
        verify_us / 1000.0, network_us / 1000.0, drafting_us / 1000.0, queue_us / 1000.0, measured_ms - known_ms
    )


def _way_down_us(flight: Flight) -> int:
    return flight.verdict_at_us - flight.answered_at_us


def _spent(before: Flight, record: RoundRecord, flight: Flight, *, reads: bool) -> dict[str, int]:
    """Microseconds by cause between the answer ``before`` and this round's; each instant belongs to one cause at most."""
    free = [(before.answered_at_us, flight.answered_at_us)]
    spent = {"verify": 0, "queue": 0, "network": 0, "drafting": 0}
    for cause, begin, end in _causes(before, record, flight, reads):
        left: list[tuple[int, int]] = []
        for first, last in free:
            shared_from, shared_to = max(first, begin), min(last, end)
            if shared_from >= shared_to:
                left.append((first, last))
                continue
            spent[cause] += shared_to - shared_from
            left += [span for span in ((first, shared_from), (shared_to, last)) if span[0] < span[1]]
        free = left
    return spent


def _causes(before: Flight, record: RoundRecord, flight: Flight, reads: bool) -> Iterator[tuple[str, int, int]]:
    """``(cause, begin, end)`` in order of precedence; spans may overlap."""
    yield "verify", flight.computing_at_us, flight.answered_at_us
    yield "queue", flight.queued_at_us, flight.computing_at_us
    if record.sent_at_us is None:
        return
    yield "network", flight.sent_at_us, flight.queued_at_us
    way_down = ("network", before.answered_at_us, before.verdict_at_us)
    if not record.chained:
        yield way_down
    if record.draft_began_at_us is not None and record.draft_ended_at_us is not None:
        began_us = before.answered_at_us if reads else record.draft_began_at_us
        yield "drafting", min(began_us, record.draft_began_at_us), record.draft_ended_at_us
    if record.chained:
        yield way_down
