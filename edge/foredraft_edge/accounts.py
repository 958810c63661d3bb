"""What a text took: the record of each round for the trace, the totals, and the samples the planner learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from foredraft_shared.messages import Decode, Draft, Hint, Verdict
from foredraft_shared.traces import HintRecord, RoundRecord

from .planner import Plan, Planner

__all__ = ["Accounts", "Flight", "LoopStatistics"]

_FARTHER = 3.0
"""Times the round trip as it is believed that a round which was sent again may tell of it at most."""

REPORT_EVERY = 32
"""Rounds between two that tell the server about the link: three bytes each."""


@dataclass(slots=True)
class LoopStatistics:
    """Totals of one text; times in microseconds."""

    rounds: int = 0
    """Verdicts committed, streamed tokens of the cloud's own included: the cloud's passes for this text."""
    draft_rounds: int = 0
    """Verdicts on drafts, empty ones included."""
    drafted: int = 0
    """Tokens sent in drafts that got a verdict."""
    accepted: int = 0
    committed: int = 0
    discarded: int = 0
    """Tokens drafted on wrong guesses."""
    guesses: int = 0
    guess_hits: int = 0
    """Verdicts that the path already agreed with."""
    chained: int = 0
    chained_hits: int = 0
    hints: int = 0
    hints_right: int = 0
    restarts_on_hint: int = 0
    repeats: int = 0
    """Messages sent again because no answer came."""
    resumes: int = 0
    outages: int = 0
    """Times the server was gone and came back."""
    provisional: int = 0
    """Tokens handed out unverified."""
    revised: int = 0
    """Of those, tokens that turned out otherwise."""
    drafting_us: int = 0
    waiting_us: int = 0
    overhead_us: int = 0
    """The loop's own: neither drafting, nor waiting, nor the caller's."""
    cloud_computed_us: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(slots=True)
class Flight:
    """What is remembered of a round until its verdict."""

    request: Draft | Decode
    record: RoundRecord
    probabilities: tuple[float, ...]
    guess_probability: float | None
    """Of the guess it is chained on."""
    sent_ns: int
    reads_prompt: bool
    """The server had to read the prompt first: its times say nothing about a round."""
    repeated: bool = False
    """Nobody knows which of its sendings the verdict answers, so it is a poor sample of the round trip (Karn's algorithm)."""

    @property
    def outlook(self) -> list[float]:
        """The draft's probability of every token it adds to the path: of the guess it is chained on, then of its own."""
        guess = [] if self.guess_probability is None else [self.guess_probability]
        return [*guess, *self.probabilities]


class Accounts:
    """The books of one text.

    Args:
        session: as records name it.
        observe: called with each round's record when the round is over.
        epoch_ns: the instant that records count from.
    """

    def __init__(
        self,
        session: str,
        planner: Planner,
        observe: Callable[[RoundRecord], None] | None,
        clock_ns: Callable[[], int],
        epoch_ns: int | None,
    ) -> None:
        self.statistics = LoopStatistics()
        self._session = session
        self._planner = planner
        self._observe = observe
        self._clock_ns = clock_ns
        self._epoch_ns = clock_ns() if epoch_ns is None else epoch_ns
        self._committed_ns = clock_ns()
        self._busy_ns = 0
        """Waiting and drafting since the last commit: what is left of the time is the loop's own."""

    # --- time

    def waited(self, nanoseconds: int) -> None:
        self._busy_ns += nanoseconds
        self.statistics.waiting_us += nanoseconds // 1000

    def drafted(self, elapsed_ms: float) -> None:
        self._busy_ns += int(elapsed_ms * 1e6)
        self.statistics.drafting_us += int(elapsed_ms * 1e3)
        self._planner.drafted(elapsed_ms)

    def excuse(self, nanoseconds: int) -> None:
        """Leave out time that is neither the loop's nor the link's: the caller's own, or the reading of the prompt."""
        self._committed_ns += nanoseconds

    # --- rounds

    def begin(
        self,
        request: Draft | Decode,
        plan: Plan,
        *,
        probabilities: tuple[float, ...] = (),
        guess_probability: float | None = None,
        reads_prompt: bool = False,
    ) -> Flight:
        """A round is about to be sent."""
        now_ns = self._clock_ns()
        record = RoundRecord(
            session=self._session,
            round=request.round,
            kind="speculate" if isinstance(request, Draft) else "cloud",
            base=request.base,
            drafted=len(probabilities),
            decision=plan.mode,
            reason=plan.reason,
            sent_at_us=self._at_us(now_ns),
        )
        return Flight(self._reporting(request), record, probabilities, guess_probability, now_ns, reads_prompt)

    def _reporting(self, request: Draft | Decode) -> Draft | Decode:
        """The same round; now and then it tells the server, for its operator, what the link takes."""
        measured = self._planner.measured.rtt_ms
        if request.round % REPORT_EVERY != 1 or not measured.samples:
            return request
        return replace(request, round_trip_us=round(measured.value * 1000.0))

    def drafting(self, flight: Flight, began_ns: int, ended_ns: int, spent_ns: int) -> None:
        """The round's draft was made between these instants, in so much time of the drafter's own."""
        flight.record.draft_began_at_us, flight.record.draft_ended_at_us = self._at_us(began_ns), self._at_us(ended_ns)
        flight.record.drafting_us = spent_ns // 1000

    def next_streamed(self, flight: Flight, base: int, plan: Plan) -> Flight:
        """The stream goes on: its next token is a round of its own in the books."""
        following = self.begin(flight.request, plan)
        following.record.base = base
        following.record.sent_at_us = None
        return following

    def sent(self, flight: Flight | None, size: int) -> None:
        self.statistics.bytes_up += size
        if flight is not None:
            flight.record.bytes_up += size

    def hinted(self, flight: Flight, hint: Hint, size: int) -> None:
        at_us = self._at_us(self._clock_ns())
        flight.record.hints.append(HintRecord(at_us, hint.exit_layer, hint.accepted, hint.token, hint.confidence))
        flight.record.bytes_down += size
        self.statistics.hints += 1

    def settle(self, flight: Flight, verdict: Verdict, tokens: int, now_ns: int, size: int) -> None:
        """A verdict committed ``tokens`` tokens: tell planner, totals and trace."""
        record, statistics, timing = flight.record, self.statistics, verdict.timing
        streamed = isinstance(flight.request, Decode)
        elapsed_ns = now_ns - self._committed_ns
        overhead_us = max(0, elapsed_ns - self._busy_ns) // 1000
        self._busy_ns = 0
        self._committed_ns = now_ns
        drafted = len(flight.probabilities)
        if not flight.reads_prompt:
            waited_ms = (now_ns - flight.sent_ns) / 1e6
            self._planner.answered(
                rtt_ms=None
                if record.sent_at_us is None or record.chained
                else self._way_ms(waited_ms - (timing.queued_us + timing.computed_us) / 1e3, flight),
                computed_ms=timing.computed_us / 1e3,
                drafted=drafted,
            )
            self._planner.progressed(tokens, elapsed_ns / 1e6, "cloud" if streamed else "speculate")
        rejected = verdict.accepted < drafted and not verdict.finish
        self._planner.judged(flight.probabilities, verdict.accepted, rejected)
        statistics.rounds += 1
        statistics.draft_rounds += not streamed
        statistics.drafted += drafted
        statistics.accepted += verdict.accepted
        statistics.committed += tokens
        statistics.chained_hits += record.chained
        statistics.hints_right += sum(
            (hint.accepted, hint.token) == (verdict.accepted, verdict.token) for hint in record.hints
        )
        statistics.overhead_us += overhead_us
        statistics.cloud_computed_us += timing.computed_us
        record.accepted, record.token, record.committed = verdict.accepted, verdict.token, tokens
        record.verdict_at_us = self._at_us(now_ns)
        record.committed_at_us = self._at_us(self._clock_ns())
        record.cloud_queued_us, record.cloud_computed_us = timing.queued_us, timing.computed_us
        record.overhead_us = overhead_us
        record.bytes_down += size
        self.lost(flight)

    def _way_ms(self, taken_ms: float, flight: Flight) -> float:
        """A sample of the round trip: of a round that was sent again, a bounded one, or an estimate that has become too small
        would make every round be sent again and never learn better."""
        known = self._planner.measured.rtt_ms.value
        return min(taken_ms, _FARTHER * known + 1.0) if flight.repeated else taken_ms

    def lost(self, flight: Flight) -> None:
        """A round is over. One that gets no verdict, since its assumption failed, is recorded with nothing committed."""
        if self._observe is not None:
            self._observe(flight.record)

    def _at_us(self, instant_ns: int) -> int:
        return (instant_ns - self._epoch_ns) // 1000
