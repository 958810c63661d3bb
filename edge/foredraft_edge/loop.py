"""The round loop: draft a token, look at the link, decide.

One page to read first. Everything the device does while a text is written happens in :meth:`RoundLoop.run`, on the
caller's thread, without callbacks.

The drafter holds one text, the *path*: the committed tokens, the draft in flight, a guess at the target's own token that
will follow it, and the next draft, growing. ``_start`` marks where that next draft begins::

    committed ........ in flight ........ guess   next draft ...
    └─ ledger.length ┘                    └ _start - 1, _start ┘

As long as verdicts say what the path says, nothing has to be thrown away: the next draft leaves at once, or left already
(a *chained* round, sent before the verdict it builds on). When a verdict says otherwise, the path is cut where it went
wrong and drafting begins again there. A hint may do the same earlier, if it is surer than the path.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from foredraft_shared.errors import Diverged, LinkLost, StaleVerdict
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import (
    Close,
    Decode,
    Draft,
    Failure,
    FinishReason,
    Hint,
    NeedResume,
    Open,
    Position,
    Resume,
    Resync,
    SamplingParams,
    TokenId,
    Verdict,
)
from foredraft_shared.traces import HintRecord, RoundRecord

from .drafters.base import Drafter, Proposal, follow
from .link import Link, error_from
from .planner import Plan, Planner

__all__ = ["Commit", "LoopOptions", "LoopStatistics", "RoundLoop"]


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """What the loop may do."""

    ahead: bool = True
    """Draft on while a round is in flight; without it the device waits for each verdict."""
    window: int = 2
    """Rounds in flight at most; 1 never chains."""
    chain_confidence: float = 0.15
    """A chained round is sent if what it assumes is at least this probable: below, it is only bytes."""
    hints: bool = True
    timeout_s: float = 30.0
    """Silence after which the server is given up."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Tokens that have become final."""

    tokens: tuple[TokenId, ...]
    drafted: int
    """How many of them, from the first, were drafted by the edge; the rest are the target's own."""
    finish: FinishReason


@dataclass(slots=True)
class LoopStatistics:
    """Totals of one text; times in microseconds."""

    rounds: int = 0
    """Verdicts committed, streamed tokens of the cloud's own included."""
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
    drafting_us: int = 0
    waiting_us: int = 0
    overhead_us: int = 0
    cloud_computed_us: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(slots=True)
class _Flight:
    """What is remembered of a round until its verdict."""

    record: RoundRecord
    probabilities: tuple[float, ...]
    guess: tuple[float, ...]
    """Probability of the guess before it, if it is chained on one."""
    sent_ns: int
    prompt: bool
    """Whether the server had to read the prompt first: its times say nothing about a round."""


class RoundLoop:
    """One text, written by a drafter here and a target behind ``link``.

    Args:
        ledger: of the session, holding the prompt.
        drafter: ``None`` leaves everything to the cloud.
        observe: called with each round's record when the round is over.
    """

    def __init__(
        self,
        link: Link,
        ledger: Ledger,
        drafter: Drafter | None,
        planner: Planner,
        params: SamplingParams,
        *,
        max_tokens: int = 256,
        stop_tokens: Sequence[TokenId] = (),
        max_draft: int = 64,
        options: LoopOptions | None = None,
        observe: Callable[[RoundRecord], None] | None = None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        epoch_ns: int | None = None,
    ) -> None:
        self._link = link
        self._ledger = ledger
        self._drafter = drafter
        self._planner = planner
        self._params = params
        self._stop_tokens = frozenset(stop_tokens)
        self._limit: Position = ledger.prompt_length + max_tokens
        self._max_tokens = max_tokens
        self._max_draft = max_draft
        self._options = options or LoopOptions()
        self._observe = observe
        self._clock_ns = clock_ns
        self._epoch_ns = clock_ns() if epoch_ns is None else epoch_ns
        self.statistics = LoopStatistics()
        self.finish: FinishReason = ""
        self.plan = Plan("speculate", "")
        """The planner's latest decision."""

        self._flights: dict[int, _Flight] = {}
        self._proposals: Iterator[Proposal] | None = None
        self._exhausted = False
        """The drafter has nothing to add to the path."""
        self._start: Position = ledger.length
        self._probabilities: list[float] = []
        self._guess_probability: float | None = None
        self._began_ns: int | None = None
        self._discarded = 0
        self._ready = 0
        self._guess_hit: bool | None = None
        self._asleep_ns = 0
        """Time spent waiting or drafting since the last commit; the rest is the loop's own."""
        self._committed_ns = 0
        self._heard_ns = 0
        self._repeat_at_ns = 0
        self._repeat_s = 0.0

    # --- the loop

    def run(self) -> Iterator[Commit]:
        """Write the text; yields what becomes final as soon as it does.

        Raises:
            LinkLost: the server has been silent for ``timeout_s``.
            ServerRefused: the server does not serve this request, and says why.
        """
        self._open()
        try:
            while not self.finish:
                if not self._ledger.in_flight:
                    self._decide()
                if self._wants_token():
                    self._draft_token()
                self._send_ready()
                commit = self._listen(block=not self._wants_token())
                if commit is not None:
                    paused_ns = self._clock_ns()
                    yield commit
                    self._excuse(self._clock_ns() - paused_ns)
        finally:
            self._close()

    @property
    def provisional(self) -> tuple[TokenId, ...]:
        """What the device expects to follow the committed text: nobody has verified it."""
        if self._drafter is None or self.plan.mode == "cloud":
            return ()
        return tuple(self._drafter.tokens[self._ledger.length :])

    # --- deciding

    def _decide(self) -> None:
        written = self._ledger.length - self._ledger.prompt_length
        self.plan = self._planner.plan(written) if self._drafter is not None else Plan("cloud", "no draft model")
        if self.plan.mode == "cloud":
            left = self._limit - self._ledger.length
            request = self._ledger.request(min(left, self.plan.tokens or left))
            self._flights[request.round] = self._flight(request, ())
            self._send(request)
            if self._drafter is not None and self.plan.tokens is not None:
                self._read_prompt()
            return
        if self._start < self._ledger.length:  # the cloud has been writing alone
            assert self._drafter is not None
            follow(self._drafter, self._ledger.tokens)
            self._restart(self._ledger.length)
        if self._options.ahead and written == 0:
            # The server reads the prompt and writes its first token meanwhile: ask for that with an empty draft.
            self._send_draft()

    def _read_prompt(self) -> None:
        """Let the drafter read what it has not read yet, while the cloud is writing alone."""
        assert self._drafter is not None
        begun_ns = self._clock_ns()
        follow(self._drafter, self._ledger.tokens)
        for _ in self._drafter.draft(1, self._params):
            break
        self._drafter.rewind(self._ledger.length)
        self._restart(self._ledger.length)
        self._excuse(self._clock_ns() - begun_ns)

    def _wants_token(self) -> bool:
        if self._drafter is None or self.plan.mode != "speculate" or self._exhausted:
            return False
        if not self._options.ahead and self._ledger.in_flight:
            return False
        if self._start >= self._limit:
            return False
        return not self._complete(idle=self._start == self._ledger.length)

    def _complete(self, *, idle: bool) -> bool:
        """Whether the draft being built needs no further token."""
        assert self._drafter is not None
        if self._exhausted:
            return True
        room = min(self._limit - self._start - 1, self._max_draft)
        if len(self._drafter.tokens) < self._start:
            return False  # the guess before it is still missing
        return len(self._probabilities) >= room or self._planner.enough(self._probabilities, idle=idle)

    # --- drafting

    def _draft_token(self) -> None:
        assert self._drafter is not None
        begun_ns = self._clock_ns()
        if self._proposals is None:
            self._proposals = self._drafter.draft(self._limit - len(self._drafter.tokens), self._params)
        proposal = next(self._proposals, None)
        elapsed_ns = self._clock_ns() - begun_ns
        self._asleep_ns += elapsed_ns
        self.statistics.drafting_us += elapsed_ns // 1000
        if self._began_ns is None:
            self._began_ns = begun_ns
        if proposal is None:
            self._exhausted = True
            return
        self._planner.drafted(elapsed_ns / 1e6)
        if len(self._drafter.tokens) > self._start:
            self._probabilities.append(proposal.probability)
        else:
            self._guess_probability = proposal.probability
        if proposal.token in self._stop_tokens:
            self._exhausted = True  # nothing follows a stop token

    def _restart(self, start: Position, probability: float | None = None) -> None:
        """Begin the next draft at ``start``, which is where the path ends now."""
        self._proposals = None
        self._exhausted = False
        self._start = start
        self._probabilities = []
        self._guess_probability = probability
        self._began_ns = None

    # --- sending

    def _send_ready(self) -> None:
        if self._drafter is None or self.plan.mode != "speculate" or self.finish:
            return
        in_flight = self._ledger.in_flight
        if self._start == self._ledger.length:
            if not in_flight and self._complete(idle=True):
                self._send_draft()
        elif (
            self._options.ahead
            and len(in_flight) < self._options.window
            and self._probabilities
            and self._start < self._limit
            and self._complete(idle=False)
            and self._assumption() >= self._options.chain_confidence
        ):
            self._send_draft()

    def _assumption(self) -> float:
        """Probability that the text which the next draft builds on will be committed."""
        probabilities = [probability for flight in self._flights.values() for probability in flight.probabilities]
        probabilities += [probability for flight in self._flights.values() for probability in flight.guess]
        if self._guess_probability is not None:
            probabilities.append(self._guess_probability)
        return self._planner.survival(probabilities)

    def _send_draft(self) -> None:
        """Send what has been drafted since ``_start`` and begin the next draft one token behind it."""
        assert self._drafter is not None
        path = self._drafter.tokens
        assuming = path[self._ledger.length : self._start]
        tokens = tuple(path[self._start :][: len(self._probabilities)])
        draft = self._ledger.propose(tokens, assuming=assuming)
        probabilities = tuple(self._probabilities)
        guess = () if self._guess_probability is None or not assuming else (self._guess_probability,)
        flight = self._flight(draft, probabilities, guess)
        record = flight.record
        record.chained = bool(assuming)
        record.ready, record.guess_hit, record.discarded = self._ready, self._guess_hit, self._discarded
        record.draft_limit = self._max_draft
        if self._began_ns is not None:
            record.draft_began_at_us = self._at_us(self._began_ns)
            record.draft_ended_at_us = self._at_us(flight.sent_ns)
        self.statistics.chained += record.chained
        self._flights[draft.round] = flight
        stopped = bool(tokens) and tokens[-1] in self._stop_tokens
        self._start += len(tokens) + 1
        self._probabilities = []
        self._guess_probability = None
        self._began_ns = None
        self._ready, self._guess_hit, self._discarded = 0, None, 0
        self._exhausted = stopped or (self._exhausted and not self._options.ahead)
        self._send(draft)

    def _flight(
        self, request: Draft | Decode, probabilities: tuple[float, ...], guess: tuple[float, ...] = ()
    ) -> _Flight:
        sent_ns = self._clock_ns()
        record = RoundRecord(
            session=self._ledger.session.hex()[:8],
            round=request.round,
            kind="speculate" if isinstance(request, Draft) else "cloud",
            base=request.base,
            drafted=len(probabilities),
            decision=self.plan.mode,
            reason=self.plan.reason,
            sent_at_us=self._at_us(sent_ns),
        )
        prompt = request.base == self._ledger.prompt_length
        return _Flight(record, probabilities, guess, sent_ns, prompt)

    def _send(self, message: Open | Resume | Draft | Decode) -> None:
        before = self._link.transport.counters.bytes_sent
        try:
            self._link.send(message)
        except LinkLost:
            pass  # what is not answered is sent again: see _repeat
        self.statistics.bytes_up += self._link.transport.counters.bytes_sent - before
        if isinstance(message, Draft | Decode):
            self._flights[message.round].record.bytes_up += self._link.transport.counters.bytes_sent - before
        self._schedule_repeat(fresh=True)

    # --- listening

    def _listen(self, *, block: bool) -> Commit | None:
        """Look at the link, or wait for it, and act on what came."""
        begun_ns = self._clock_ns()
        timeout_s = max(0.0, (self._repeat_at_ns - begun_ns) / 1e9) if block else 0.0
        before = self._link.transport.counters.bytes_received
        message = self._link.receive(timeout_s)
        now_ns = self._clock_ns()
        if block:
            self._asleep_ns += now_ns - begun_ns
            self.statistics.waiting_us += (now_ns - begun_ns) // 1000
        if message is None:
            if now_ns >= self._repeat_at_ns and self._ledger.in_flight:
                self._repeat(now_ns)
            return None
        self._heard_ns = now_ns
        received = self._link.transport.counters.bytes_received - before
        self.statistics.bytes_down += received
        if isinstance(message, Failure):
            if message.session and message.session != self._ledger.session:
                return None
            raise error_from(message)
        if getattr(message, "session", None) != self._ledger.session:
            return None  # of an earlier text on this link
        if isinstance(message, Verdict):
            return self._verdict(message, now_ns, received)
        if isinstance(message, Hint):
            self._hint(message, now_ns, received)
        elif isinstance(message, NeedResume | Resync):
            self._resume()
        return None

    def _verdict(self, verdict: Verdict, now_ns: int, received: int) -> Commit | None:
        before = self._ledger.length
        flight = self._flights.get(verdict.round)
        try:
            tokens = self._ledger.commit(verdict)
        except StaleVerdict:
            return None
        except Diverged:
            self._recover()
            return None
        assert flight is not None
        self.finish = verdict.finish
        statistics = self.statistics
        if self.plan.mode == "speculate" and self._drafter is not None:
            self._align(before, tokens)
        self._account(flight, verdict, tokens, now_ns, received)
        pending = {round_.round for round_ in self._ledger.in_flight}
        for number in [number for number in self._flights if number not in pending]:
            gone = self._flights.pop(number)
            if number != verdict.round and self._observe is not None:
                self._observe(gone.record)  # a chained round whose assumption failed: committed stays 0
        if flight.record.kind == "cloud" and verdict.round in pending:
            # The stream goes on: its next token is a round of its own in the trace.
            stream = self._ledger.in_flight[0]
            fresh = self._flight(stream, ())
            fresh.record.base = self._ledger.length
            fresh.record.sent_at_us = None
            fresh.prompt = False
            self._flights[verdict.round] = fresh
        statistics.committed += len(tokens)
        self._committed_ns = now_ns
        self._schedule_repeat(fresh=True)
        return Commit(tokens, verdict.accepted, verdict.finish)

    def _align(self, before: Position, tokens: Sequence[TokenId]) -> None:
        """Make the path agree with the committed text, keeping all of it that does."""
        assert self._drafter is not None
        path = self._drafter.tokens
        length = self._ledger.length
        if list(path[before:length]) == list(tokens) and len(path) >= length:
            if self._start < length:  # the guess was right and stands where a draft would have begun
                self._restart_keeping(length)
            hit = True
        else:
            hit = list(path[before:length]) == list(tokens)[: len(path) - before]
            if not hit:
                self._discarded += max(0, len(path) - length)
                self.statistics.discarded += max(0, len(path) - length)
            follow(self._drafter, self._ledger.tokens)
            self._restart(length)
            self._began_ns = None
        if self._options.ahead:
            self._guess_hit = hit
            self._ready = len(self._probabilities) if hit else 0
            self.statistics.guesses += 1
            self.statistics.guess_hits += hit

    def _restart_keeping(self, length: Position) -> None:
        """The path runs beyond ``length`` but no draft was begun there: take what is beyond as undrafted."""
        assert self._drafter is not None
        self._drafter.rewind(length)
        self._restart(length)

    def _hint(self, hint: Hint, now_ns: int, received: int) -> None:
        flight = self._flights.get(hint.round)
        in_flight = self._ledger.in_flight
        if flight is None or hint.epoch != self._ledger.epoch or not in_flight or in_flight[0].round != hint.round:
            return
        flight.record.hints.append(
            HintRecord(self._at_us(now_ns), hint.exit_layer, hint.accepted, hint.token, hint.confidence)
        )
        flight.record.bytes_down += received
        self.statistics.hints += 1
        request = in_flight[0]
        if self._drafter is None or not isinstance(request, Draft) or hint.accepted > len(request.tokens):
            return
        if not self._options.ahead or not self._options.hints or self.plan.mode != "speculate":
            return
        expected = (*request.tokens[: hint.accepted], hint.token)
        path = self._drafter.tokens
        end = request.base + len(expected)
        if tuple(path[request.base : end]) == expected:
            return  # it confirms the path
        if len(path) == end - 1 and tuple(path[request.base :]) == expected[:-1]:
            follow(self._drafter, [*path, hint.token])  # the guess we had not made yet
            self._restart(end, hint.confidence)
            return
        belief = self._planner.survival([*flight.probabilities, *([self._guess_probability or 1.0])])
        if hint.confidence <= belief:
            return
        self.statistics.restarts_on_hint += 1
        flight.record.restarted_on_hint = True
        lost = len(path) - request.base - hint.accepted
        self._discarded += lost
        self.statistics.discarded += lost
        follow(self._drafter, [*path[: request.base + hint.accepted], hint.token])
        self._restart(end, hint.confidence)

    def _account(
        self, flight: _Flight, verdict: Verdict, tokens: Sequence[TokenId], now_ns: int, received: int
    ) -> None:
        """Tell planner, statistics and trace about a committed round."""
        record, statistics = flight.record, self.statistics
        streamed = record.kind == "cloud"
        timing = verdict.timing
        wait_ms = (now_ns - flight.sent_ns) / 1e6
        elapsed_ns = now_ns - self._committed_ns
        overhead_us = max(0, elapsed_ns - self._asleep_ns) // 1000
        self._asleep_ns = 0
        if not flight.prompt:
            self._planner.answered(
                rtt_ms=wait_ms - (timing.queued_us + timing.computed_us) / 1000.0,
                computed_ms=timing.computed_us / 1000.0,
                drafted=len(flight.probabilities),
                streamed=streamed or record.chained,
            )
            self._planner.progressed(len(tokens), elapsed_ns / 1e6, "cloud" if streamed else "speculate")
        rejected = verdict.accepted < len(flight.probabilities) and not verdict.finish
        self._planner.judged(flight.probabilities, verdict.accepted, rejected)
        statistics.rounds += 1
        statistics.draft_rounds += not streamed
        statistics.drafted += len(flight.probabilities)
        statistics.accepted += verdict.accepted
        statistics.chained_hits += record.chained
        statistics.hints_right += sum(
            (hint.accepted, hint.token) == (verdict.accepted, verdict.token) for hint in record.hints
        )
        statistics.overhead_us += overhead_us
        statistics.cloud_computed_us += timing.computed_us
        record.accepted, record.token, record.committed = verdict.accepted, verdict.token, len(tokens)
        record.verdict_at_us = self._at_us(now_ns)
        record.committed_at_us = self._at_us(self._clock_ns())
        record.cloud_queued_us, record.cloud_computed_us = timing.queued_us, timing.computed_us
        record.overhead_us = overhead_us
        record.bytes_down += received
        if self._observe is not None:
            self._observe(record)

    # --- when something goes wrong

    def _open(self) -> None:
        now_ns = self._clock_ns()
        self._heard_ns = self._committed_ns = now_ns
        ledger = self._ledger
        if self._drafter is not None:
            self._drafter.begin(ledger.tokens)
        hints = self._options.hints and self._options.ahead and self._drafter is not None
        self._send(
            Open(
                ledger.session, tuple(ledger.tokens), self._params, self._max_tokens,
                tuple(sorted(self._stop_tokens)), ledger.epoch, hints,
            )
        )  # fmt: skip

    def _close(self) -> None:
        try:
            self._link.send(Close(self._ledger.session, self._ledger.epoch))
        except LinkLost:
            pass  # nobody there: the server forgets the session by itself

    def _schedule_repeat(self, *, fresh: bool) -> None:
        """Repeat what is in flight after a few round trips of silence, then ever more rarely."""
        measured = self._planner.measured
        patience_s = 4 * (measured.rtt_ms.value + measured.verify_ms.value) / 1000.0
        self._repeat_s = max(1.0, patience_s) if fresh else min(self._repeat_s * 2, 4.0)
        self._repeat_at_ns = self._clock_ns() + int(self._repeat_s * 1e9)

    def _repeat(self, now_ns: int) -> None:
        """No answer: send again everything that is in flight. The server recognises what it has already."""
        silent_s = (now_ns - self._heard_ns) / 1e9
        if silent_s > self._options.timeout_s:
            raise LinkLost(
                f"{self._link.where} has been silent for {silent_s:.0f} s; {len(self._ledger.written)} tokens were "
                "written until then. Check the server and the network, then ask again."
            )
        for request in self._ledger.in_flight:
            self.statistics.repeats += 1
            self._send(request)
        self._schedule_repeat(fresh=False)

    def _recover(self) -> None:
        """A verdict went missing: begin again from the committed text; the server repeats what it has."""
        self._ledger.abandon()
        self._flights.clear()
        if self._drafter is not None:
            follow(self._drafter, self._ledger.tokens)
        self._restart(self._ledger.length)

    def _resume(self) -> None:
        """The server does not hold our text (any more): give it all of it, in a new epoch."""
        self.statistics.resumes += 1
        self._ledger.raise_epoch()
        self._recover()
        ledger = self._ledger
        hints = self._options.hints and self._options.ahead and self._drafter is not None
        self._send(
            Resume(
                ledger.session, ledger.epoch, tuple(ledger.tokens), ledger.prompt_length, self._params,
                self._max_tokens, tuple(sorted(self._stop_tokens)), hints,
            )
        )  # fmt: skip

    # --- time

    def _excuse(self, nanoseconds: int) -> None:
        """Leave out time that is neither the loop's nor the link's: the caller's own, or the reading of the prompt."""
        self._committed_ns += nanoseconds
        self._heard_ns += nanoseconds

    def _at_us(self, instant_ns: int) -> int:
        return (instant_ns - self._epoch_ns) // 1000
