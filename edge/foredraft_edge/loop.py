"""The round loop: draft a token, look at the link, decide.

One page to read first. Everything the device does while a text is written happens in :meth:`RoundLoop.run`, on the
caller's thread, without callbacks. What the device believes will come next is the :class:`~foredraft_edge.path.Path`: when
a verdict confirms it, the next draft leaves at once, or has left already (a *chained* round, sent before the verdict it
builds on); when a verdict contradicts it, drafting begins again there. A hint may turn the path earlier, if it is surer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
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
from foredraft_shared.traces import RoundRecord

from .accounts import Accounts, Flight, LoopStatistics
from .drafters.base import Drafter
from .link import Link, error_from
from .path import Path
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


class RoundLoop:
    """One text, written by a drafter here and a target behind ``link``.

    Args:
        ledger: of the session, holding the prompt.
        drafter: ``None`` leaves everything to the cloud.
        max_draft: longest draft the server takes.
        observe: called with each round's record when the round is over.
        epoch_ns: the instant of ``clock_ns`` that records count from; by default now.
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
        self._planner = planner
        self._params = params
        self._stop_tokens = frozenset(stop_tokens)
        self._max_tokens = max_tokens
        self._limit: Position = ledger.prompt_length + max_tokens
        self._max_draft = max_draft
        self._options = options or LoopOptions()
        self._clock_ns = clock_ns
        self._path = Path(drafter, params, self._stop_tokens, clock_ns) if drafter is not None else None
        self._accounts = Accounts(ledger.session.hex()[:8], planner, observe, clock_ns, epoch_ns)
        self._flights: dict[int, Flight] = {}
        self._cold_at: Position = ledger.length
        """A round that begins here waits until the server has read the text."""
        self._heard = False
        """Whether the last look at the link found a message."""
        self._heard_ns = clock_ns()
        self._repeat_at_ns = 0
        self._repeat_s = 0.0
        self.finish: FinishReason = ""
        self.plan = Plan("speculate", "nothing decided yet")
        """The planner's latest decision."""

    @property
    def statistics(self) -> LoopStatistics:
        return self._accounts.statistics

    @property
    def provisional(self) -> tuple[TokenId, ...]:
        """What the device expects to follow the committed text: nobody has verified it."""
        path = self._speculating
        return tuple(path.tokens[self._ledger.length :]) if path is not None else ()

    # --- the loop

    def run(self) -> Generator[Commit, None, None]:
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
                while commit is None and self._heard:
                    commit = self._listen(block=False)  # what is here already comes before the next drafted token
                if commit is not None:
                    paused_ns = self._clock_ns()
                    yield commit
                    self._excuse(self._clock_ns() - paused_ns)
        finally:
            with suppress(LinkLost):  # nobody there: the server forgets the session by itself
                self._link.send(Close(self._ledger.session, self._ledger.epoch))

    # --- deciding and drafting

    @property
    def _speculating(self) -> Path | None:
        return self._path if self.plan.mode == "speculate" else None

    def _decide(self) -> None:
        """Nothing is in flight: speculate, or let the cloud write for a while."""
        ledger, path = self._ledger, self._path
        written = ledger.length - ledger.prompt_length
        self.plan = self._planner.plan(written) if path is not None else Plan("cloud", "there is no draft model")
        if self.plan.mode == "cloud":
            left = self._limit - ledger.length
            request = ledger.request(min(left, self.plan.tokens or left))
            self._dispatch(self._accounts.begin(request, self.plan, reads_prompt=ledger.length == self._cold_at))
            if path is not None and self.plan.tokens is not None:
                begun_ns = self._clock_ns()
                path.read(ledger.tokens)  # speculation is to follow: be ready for it
                self._excuse(self._clock_ns() - begun_ns)
            return
        assert path is not None
        if path.start < ledger.length:  # the cloud has been writing alone
            path.reset(ledger.tokens)
        if self._options.ahead and written == 0:
            # The server reads the prompt and writes its first token meanwhile: ask for that with an empty draft.
            self._send_draft(path)

    def _wants_token(self) -> bool:
        path = self._speculating
        if path is None or path.exhausted or path.start >= self._limit:
            return False
        if not self._options.ahead and self._ledger.in_flight:
            return False
        return not self._complete(path)

    def _complete(self, path: Path) -> bool:
        """Whether the draft being built needs no further token."""
        if path.exhausted:
            return True
        if path.guess_missing:
            return False
        room = min(self._limit - path.start - 1, self._max_draft)
        idle = path.start == self._ledger.length
        return len(path.probabilities) >= room or self._planner.enough(path.probabilities, idle=idle)

    def _draft_token(self) -> None:
        assert self._path is not None
        elapsed_ms = self._path.grow(self._limit)
        if elapsed_ms is not None:
            self._accounts.drafted(elapsed_ms)

    # --- sending

    def _send_ready(self) -> None:
        path = self._speculating
        if path is None or path.start >= self._limit or not self._complete(path):
            return
        in_flight = self._ledger.in_flight
        if path.start == self._ledger.length:
            if not in_flight:
                self._send_draft(path)
        elif (
            self._options.ahead
            and len(in_flight) < self._options.window
            and path.probabilities
            and self._assumption(path) >= self._options.chain_confidence
        ):
            self._send_draft(path)

    def _assumption(self, path: Path) -> float:
        """Probability that the text which the next draft builds on will be committed."""
        probabilities = [probability for flight in self._flights.values() for probability in flight.probabilities]
        guesses = [flight.guess_probability for flight in self._flights.values()]
        known = [guess for guess in (*guesses, path.guess_probability) if guess is not None]
        return self._planner.survival([*probabilities, *known])

    def _send_draft(self, path: Path) -> None:
        assuming = path.tokens[self._ledger.length : path.start]
        probabilities, guess = tuple(path.probabilities), path.guess_probability
        began_ns, ended_ns, drafting_ns = path.began_ns, path.ended_ns, path.drafting_ns
        draft = self._ledger.propose(path.take(), assuming=assuming)
        flight = self._accounts.begin(
            draft,
            self.plan,
            probabilities=probabilities,
            guess_probability=guess if assuming else None,
            reads_prompt=draft.base == self._cold_at,
        )
        flight.record.chained = bool(assuming)
        if began_ns is not None:
            self._accounts.drafting(flight, began_ns, ended_ns, drafting_ns)
        self.statistics.chained += bool(assuming)
        self._dispatch(flight)

    def _dispatch(self, flight: Flight) -> None:
        self._flights[flight.request.round] = flight
        self._send(flight.request, flight)
        self._be_patient(fresh=True)

    def _send(self, message: Open | Resume | Draft | Decode, flight: Flight | None = None) -> None:
        counters = self._link.transport.counters
        before = counters.bytes_sent
        with suppress(LinkLost):  # what is not answered is sent again: see _repeat
            self._link.send(message)
        self._accounts.sent(flight, counters.bytes_sent - before)

    # --- listening

    def _listen(self, *, block: bool) -> Commit | None:
        """Look at the link, or wait for it, and act on what came."""
        counters = self._link.transport.counters
        before = counters.bytes_received
        begun_ns = self._clock_ns()
        message = self._link.receive(max(0.0, (self._repeat_at_ns - begun_ns) / 1e9) if block else 0.0)
        now_ns = self._clock_ns()
        if block:
            self._accounts.waited(now_ns - begun_ns)
        self._heard = message is not None
        if message is None:
            if now_ns >= self._repeat_at_ns and self._ledger.in_flight:
                self._repeat(now_ns)
            return None
        self._heard_ns = now_ns
        size = counters.bytes_received - before
        self.statistics.bytes_down += size
        if isinstance(message, Failure):
            if message.session in (b"", self._ledger.session):
                raise error_from(message)
        elif message.session != self._ledger.session:
            pass  # of an earlier text on this link
        elif isinstance(message, Verdict):
            return self._verdict(message, now_ns, size)
        elif isinstance(message, Hint):
            self._hint(message, size)
        elif isinstance(message, NeedResume | Resync) and message.epoch == self._ledger.epoch:
            self._resume()
        return None

    def _verdict(self, verdict: Verdict, now_ns: int, size: int) -> Commit | None:
        ledger = self._ledger
        before = ledger.length
        try:
            tokens = ledger.commit(verdict)
        except StaleVerdict:
            return None
        except Diverged:
            self._start_over()  # a verdict went missing; the server repeats what it has
            return None
        self.finish = verdict.finish
        flight = self._flights.pop(verdict.round)
        pending = {request.round: request for request in ledger.in_flight}
        for number in [number for number in self._flights if number not in pending]:
            self._accounts.lost(self._flights.pop(number))
        path = self._speculating
        if path is not None and not self.finish:
            following = next((request for request in pending.values() if request.base == ledger.length), None)
            foreseen = path.agree(ledger.tokens, before, following.tokens if isinstance(following, Draft) else ())
            flight.record.guess_hit = foreseen if self._options.ahead else None
            flight.record.ready = len(path.probabilities)
            self.statistics.guesses += self._options.ahead
            self.statistics.guess_hits += self._options.ahead and foreseen
            flight.record.discarded = path.discarded - self.statistics.discarded
            self.statistics.discarded = path.discarded
        self._accounts.settle(flight, verdict, len(tokens), now_ns, size)
        if verdict.round in pending:
            self._flights[verdict.round] = self._accounts.next_streamed(flight, ledger.length, self.plan)
        self._be_patient(fresh=True)
        return Commit(tokens, verdict.accepted, verdict.finish)

    def _hint(self, hint: Hint, size: int) -> None:
        """Turn the path if the hint contradicts it and is surer than it."""
        in_flight, path = self._ledger.in_flight, self._speculating
        flight = self._flights.get(hint.round)
        if flight is None or hint.epoch != self._ledger.epoch or in_flight[0].round != hint.round:
            return
        self._accounts.hinted(flight, hint, size)
        request = flight.request
        if path is None or not isinstance(request, Draft) or hint.accepted > len(request.tokens):
            return
        if not self._options.ahead or not self._options.hints:
            return
        expected = (*request.tokens[: hint.accepted], hint.token)
        held = tuple(path.tokens[request.base : request.base + len(expected)])
        if held == expected:
            return
        unguessed = held == expected[:-1]  # the path ends before the token that the hint tells
        if unguessed or hint.confidence > self._belief(flight, path):
            path.turn(request.base, expected, hint.confidence)
            flight.record.restarted_on_hint = not unguessed
            self.statistics.restarts_on_hint += not unguessed

    def _belief(self, flight: Flight, path: Path) -> float:
        """Probability that the round in flight ends as the path says."""
        guess = (path.guess_probability,) if path.guess_probability is not None else ()
        return self._planner.survival([*flight.probabilities, *guess])

    # --- when something goes wrong

    def _open(self) -> None:
        if self._path is not None:
            self._path.begin(self._ledger.tokens)
        ledger = self._ledger
        prompt, stop_tokens = tuple(ledger.tokens), tuple(sorted(self._stop_tokens))
        self._send(Open(ledger.session, prompt, self._params, self._max_tokens, stop_tokens, ledger.epoch, self._hints))

    @property
    def _hints(self) -> bool:
        return self._options.hints and self._options.ahead and self._path is not None

    def _be_patient(self, *, fresh: bool) -> None:
        """Repeat what is in flight after a few round trips of silence, then ever more rarely."""
        measured = self._planner.measured
        patience_s = 4 * (measured.rtt_ms.value + measured.verify_ms.value) / 1000.0
        self._repeat_s = max(1.0, patience_s) if fresh else min(self._repeat_s * 2, max(4.0, patience_s))
        self._repeat_at_ns = self._clock_ns() + int(self._repeat_s * 1e9)

    def _repeat(self, now_ns: int) -> None:
        """No answer: send again everything that is in flight. The server recognises what it has already."""
        silent_s = (now_ns - self._heard_ns) / 1e9
        if silent_s > self._options.timeout_s:
            raise LinkLost(
                f"{self._link.where} has been silent for {silent_s:.0f} s; {len(self._ledger.written)} tokens were "
                "written until then. Check the server and the network, then ask again."
            )
        for flight in self._flights.values():
            self.statistics.repeats += 1
            flight.repeated = True
            self._send(flight.request, flight)
        self._be_patient(fresh=False)

    def _start_over(self) -> None:
        """Give up what is in flight and begin again from the committed text."""
        self._ledger.abandon()
        self._flights.clear()
        if self._path is not None:
            self._path.reset(self._ledger.tokens)

    def _resume(self) -> None:
        """The server does not hold our text (any more): give it all of it, in a new epoch."""
        self.statistics.resumes += 1
        self._ledger.raise_epoch()
        self._start_over()
        self._cold_at = self._ledger.length
        ledger = self._ledger
        tokens, stop_tokens = tuple(ledger.tokens), tuple(sorted(self._stop_tokens))
        self._send(
            Resume(
                ledger.session, ledger.epoch, tokens, ledger.prompt_length, self._params, self._max_tokens,
                stop_tokens, self._hints,
            )
        )  # fmt: skip

    def _excuse(self, nanoseconds: int) -> None:
        self._accounts.excuse(nanoseconds)
        self._heard_ns += nanoseconds
