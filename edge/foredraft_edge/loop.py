"""The round loop: draft a token, look at the link, decide.

One page to read first. Everything the device does while a text is written happens in :meth:`RoundLoop.run`, on the
caller's thread, without callbacks. What the device believes will come next is the :class:`~foredraft_edge.path.Path`: when
a verdict confirms it, the next draft leaves at once, or has left already (a *chained* round, sent before the verdict it
builds on); when a verdict contradicts it, drafting begins again there. A hint may turn the path earlier, if it is surer.
How long drafts get and when they leave is in :class:`~foredraft_edge.drafting.Drafting`.

Whether the server is there is the :class:`~foredraft_edge.watch.Watch`'s to say. Where it is not, and the caller wants it
so, the path grows on without verdicts: its tokens are handed out as *provisional*, and are verified, from the last
committed one on, when the server is back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from foredraft_shared.errors import DeadlineMissed, Diverged, ForedraftError, LinkLost, Overloaded, StaleVerdict
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import (
    Failure,
    FinishReason,
    GoAway,
    Hint,
    NeedResume,
    Pong,
    Position,
    Resync,
    SamplingParams,
    TokenId,
    Verdict,
)
from foredraft_shared.traces import RoundRecord

from .accounts import Accounts, LoopStatistics
from .conversation import Conversation, Journal, Request
from .deadlines import Deadlines
from .drafters.base import Drafter
from .drafting import Drafting
from .link import Link, error_from
from .options import LoopOptions
from .path import Path
from .planner import Plan, Planner
from .provisional import Provisional
from .shadow import Shadow
from .watch import SessionState

__all__ = ["Commit", "LoopStatistics", "RoundLoop"]

_READING_MS = 20.0
"""The drafter reads a long text in pieces of about this: between them the loop looks at the link."""
_READ_ALONG = 32
"""While the cloud writes alone, a drafter that may have to go on reads what is new in so many tokens."""
_STOP_S = 0.05
"""A wait for the link that may be stopped from another thread is no longer than this at a time."""
_PING_EVERY = 64
"""Tokens of the cloud's stream between two looks at the round trip, the first behind the first token."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Tokens that have become final, or provisional ones; none at all when the deadline of a step has passed."""

    position: Position
    """Of the first of them, prompt included."""
    tokens: tuple[TokenId, ...]
    drafted: int
    """How many of them, from the first, were drafted by the edge; the rest are the target's own."""
    finish: FinishReason
    provisional: bool = False
    """Nobody has verified them: they come again, or others in their place, when the server is back."""
    revised: tuple[Position, ...] = ()
    """Where another token had been handed out provisionally; what followed the first of these is void."""


class RoundLoop:
    """One text, written by a drafter here and a target behind ``link``.

    Args:
        ledger: of the session, holding the prompt, or more of the text if it is taken up again.
        drafter: ``None`` leaves everything to the cloud.
        max_draft: longest draft the server takes.
        observe: called with each round's record when the round is over.
        epoch_ns: the instant of ``clock_ns`` that records count from; by default now.
        journal: told of every commit.
        deadline_ns: the instant of ``clock_ns`` at which the text ends, however far it is.
        traceparent: W3C trace context for the server, or empty.
        lossy_exit: the layer that the server may take as final; 0: full depth only.
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
        journal: Journal | None = None,
        deadline_ns: int | None = None,
        traceparent: str = "",
        lossy_exit: int = 0,
    ) -> None:
        self._link = link
        self._ledger = ledger
        self._planner = planner
        self._stop_tokens = frozenset(stop_tokens)
        self._limit: Position = ledger.prompt_length + max_tokens
        self._options = options = options or LoopOptions()
        self._clock_ns = clock_ns
        self._path = path = Path(drafter, params, self._stop_tokens, clock_ns) if drafter is not None else None
        self._shadow = Shadow(path, ledger, planner, self._limit) if path is not None else None
        self._accounts = Accounts(ledger.session.hex()[:8], planner, observe, clock_ns, epoch_ns)
        self._heard = False
        """Whether the last look at the link found a message."""
        self._provisional = Provisional()
        self._deadlines = Deadlines(clock_ns, deadline_ns)
        self._conversation = Conversation(
            link,
            ledger,
            Request(
                params,
                max_tokens,
                tuple(sorted(self._stop_tokens)),
                hints=options.hints and options.ahead and self._path is not None,
                traceparent=traceparent,
                lossy_exit=lossy_exit,
            ),
            self._accounts,
            planner.measured,
            options.on_disconnect,
            options.timeout_s,
            self._deadlines,
            clock_ns,
            journal,
        )
        self._drafting = None
        if path is not None:
            self._drafting = Drafting(
                path, self._conversation, planner, self._accounts, options, self._limit, max_draft
            )
        self._stopped = False
        self._patience_s = math.inf
        """How long a wait for the link may be."""
        self.lossy_exit = lossy_exit
        self.finish: FinishReason = ""
        self.plan = Plan("speculate", "nothing decided yet")
        """The planner's latest decision."""

    @property
    def statistics(self) -> LoopStatistics:
        return self._accounts.statistics

    @property
    def provisional(self) -> tuple[TokenId, ...]:
        """What the device expects to follow the committed text: nobody has verified it."""
        path = self._writing
        return tuple(path.tokens[self._ledger.length :]) if path is not None else ()

    @property
    def state(self) -> SessionState:
        return self._conversation.watch.state

    @property
    def goes_on_alone(self) -> bool:
        """Whether the draft model writes on where the server does not answer."""
        return self._options.on_disconnect == "edge" and self._path is not None

    def keep(self, journal: Journal) -> None:
        """Tell ``journal`` of every commit; before :meth:`run` begins."""
        self._conversation.journal = journal

    def stop(self) -> None:
        """End :meth:`run` before its next token, without a ``finish``; from any thread."""
        self._stopped = True

    def expect_stop(self) -> None:
        """:meth:`stop` may be called while the loop waits: it looks up now and then. Before :meth:`run` begins."""
        self._patience_s = _STOP_S

    def step(self, until: Position, deadline_ns: int | None) -> None:
        """The caller wants the text up to ``until`` by ``deadline_ns``: then :meth:`run` yields an empty commit.

        ``None`` ends the step: without one there is no deadline but that of the text.
        """
        self._deadlines.step_until, self._deadlines.step_ns = until, deadline_ns

    # --- the loop

    def run(self) -> Generator[Commit, None, None]:
        """Write the text; yields what becomes final as soon as it does.

        Raises:
            LinkLost: the server has been silent for ``timeout_s``, or is gone and ``on_disconnect`` is ``fail``.
            DeadlineMissed: nothing had been written by the deadline.
            ModelChanged: the server came back with another model.
            ServerRefused: the server does not serve this request, and says why.
        """
        self._planner.began()
        if self._path is not None:
            self._path.begin(self._ledger.tokens)
        self._conversation.open()
        try:
            while not self.finish and not self._stopped:
                if self._late():
                    yield from self._lapse()
                    continue
                if self._alone:
                    yield from self._tell()
                if not self._ledger.in_flight and self._conversation.watch.state is not SessionState.EDGE_ONLY:
                    self._decide()
                busy = True
                if self._wants_reading():
                    self._read()
                elif self._drafting is not None and self._wants_token():
                    self._drafting.grow()
                else:
                    busy = False
                self._send_ready()
                more = self._wants_reading() or self._wants_token() or (busy and self._alone)  # to be told at once
                commit = self._listen(block=not more)
                while commit is None and self._heard:
                    commit = self._listen(block=False)  # what is here already comes before the next drafted token
                if commit is not None:
                    yield from self._hand_out(commit)
            if self.finish and self._alone:
                yield from self._tell()  # given up, with a whole text
        finally:
            self._conversation.close()

    def _hand_out(self, commit: Commit) -> Generator[Commit, None, None]:
        paused_ns = self._clock_ns()
        yield commit
        elapsed_ns = self._clock_ns() - paused_ns
        self._accounts.excuse(elapsed_ns)
        self._conversation.watch.excuse(elapsed_ns)

    # --- alone, and in a hurry

    @property
    def _alone(self) -> bool:
        """No verdict can be counted on, and the caller wants the draft model to go on."""
        return self._conversation.watch.alone and self.goes_on_alone

    def _tell(self) -> Generator[Commit, None, None]:
        """Hand out what the path holds behind the committed text, unverified."""
        path, ledger = self._path, self._ledger
        assert path is not None
        path.catch_up(ledger.tokens)
        start, tokens = self._provisional.untold(path.tokens[: self._limit], ledger.length)
        if tokens:
            self.statistics.provisional += len(tokens)
            finish = "stop" if tokens[-1] in self._stop_tokens else ""
            if not finish and start + len(tokens) == self._limit:
                finish = "length"
            yield from self._hand_out(Commit(start, tokens, len(tokens), finish, provisional=True))

    def _late(self) -> bool:
        return self._deadlines.late

    def _lapse(self) -> Generator[Commit, None, None]:
        """A deadline has passed: hand out what there is."""
        path, ledger, deadlines = self._writing, self._ledger, self._deadlines
        lapsed_ns = deadlines.step_ns
        if path is not None and path.start >= ledger.length and self._options.on_disconnect == "edge":
            yield from self._tell()
        if not deadlines.text_over:
            if deadlines.step_ns == lapsed_ns:  # else the caller had enough, and is in another step by now
                deadlines.step_ns = None
                yield from self._hand_out(Commit(ledger.length, (), 0, ""))
            return
        self.finish = "deadline"
        if not ledger.written and not self._provisional:
            raise DeadlineMissed(
                f"nothing had been written when the deadline passed ({self._link.where} is {self.state}); allow more time"
                + ("." if self.goes_on_alone else ", or let the draft model answer alone (on_disconnect='edge').")
            )

    # --- deciding and drafting

    @property
    def _speculating(self) -> Drafting | None:
        return self._drafting if self.plan.mode == "speculate" else None

    @property
    def _writing(self) -> Path | None:
        """The path, while tokens are drafted on it."""
        return self._path if self._alone or self._speculating else None

    def _decide(self) -> None:
        """Nothing is in flight: speculate, or let the cloud write for a while."""
        ledger, path = self._ledger, self._path
        written = ledger.length - ledger.prompt_length
        if path is None:
            self.plan = Plan("cloud", "there is no draft model")
        elif self._alone and path.start == ledger.length and path.probabilities:
            self.plan = Plan("speculate", "what was written alone is verified first")
        else:
            self.plan = self._planner.plan(written, self._limit - ledger.length)
        if self.plan.mode == "cloud":
            left = self._limit - ledger.length
            request = ledger.request(min(left, self.plan.tokens or left))
            reads_prompt = ledger.length == self._conversation.cold_at
            self._conversation.dispatch(self._accounts.begin(request, self.plan, reads_prompt=reads_prompt))
            if path is not None and (self.plan.tokens is not None or self._planner.curious):
                path.reset(ledger.tokens)  # the drafter reads meanwhile
            if self._shadow is not None:
                self._shadow.begin()
            return
        assert self._drafting is not None
        path = self._drafting.path
        path.catch_up(ledger.tokens)
        if self._options.ahead and written == 0 and path.start == ledger.length and not path.probabilities:
            # The server reads the prompt and writes its first token meanwhile: ask for that with an empty draft.
            self._drafting.send(self.plan)

    def _wants_reading(self) -> bool:
        """Whether the drafter should read before it drafts: while the cloud writes anything, else what takes long."""
        drafting = self._drafting
        if drafting is None or self._deadlines.left_ms <= drafting.path.piece_ms(_READING_MS):
            return False
        path = drafting.path
        if self._writing is None:
            follows = self.plan.tokens is not None or self._planner.curious or self._options.on_disconnect == "edge"
            return ((follows and path.unread > 0) or self._wants_review) and not self._conversation.measuring
        if not self._alone and drafting.complete:
            return False  # nothing will be drafted: a length of 0 is one remote call a token
        return path.reading_ms > _READING_MS  # less is read along with the next token, in one pass

    @property
    def _wants_review(self) -> bool:
        """Whether to look, while the cloud writes alone, if the draft would have been right."""
        shadow, path = self._shadow, self._path
        if shadow is None or path is None or self._writing is not None or not shadow.wants_review:
            return False
        return self._deadlines.left_ms > path.review_ms(self._planner.measured.draft_ms.value)

    def _read(self) -> None:
        assert self._path is not None
        if self._wants_review:
            assert self._shadow is not None
            elapsed_ns = self._shadow.review()
        else:
            elapsed_ns = self._path.read(_READING_MS)
        if self._writing is None:
            self._accounts.waited(elapsed_ns)  # for the cloud, which writes meanwhile
            self._planner.disturbed()
        else:
            self._accounts.excuse(elapsed_ns)

    def _wants_token(self) -> bool:
        path, drafting = self._writing, self._drafting
        if path is None and self._shadow is not None and self.plan.mode == "cloud":
            in_time = self._deadlines.left_ms > self._planner.measured.draft_ms.value
            return in_time and self._shadow.wants_token and not self._conversation.measuring
        if path is None or drafting is None or path.exhausted or len(path.tokens) >= self._limit:
            return False
        if self._deadlines.left_ms < path.reading_ms + self._planner.measured.draft_ms.value:
            return False  # it would come too late, and the deadline with it
        if self._alone:
            return True
        if path.start >= self._limit or (not self._options.ahead and self._ledger.in_flight):
            return False
        return not drafting.complete or (
            self._options.on_disconnect == "edge" and len(path.tokens) < self._deadlines.step_until
        )

    def _send_ready(self) -> None:
        drafting, watch = self._speculating, self._conversation.watch
        if drafting is None or watch.state is SessionState.EDGE_ONLY:
            return
        if drafting.ready(whatever_there_is=watch.alone):  # it is back, perhaps: one round shows
            drafting.send(self.plan)

    # --- listening

    def _listen(self, *, block: bool) -> Commit | None:
        """Look at the link, or wait for it, and act on what came."""
        conversation, watch = self._conversation, self._conversation.watch
        begun_ns = self._clock_ns()
        patience_s = min((watch.next_ns() - begun_ns) / 1e9, self._deadlines.left_ms / 1e3, self._patience_s)
        message, size = conversation.receive(max(0.0, patience_s) if block else 0.0)
        now_ns = self._clock_ns()
        if block:
            self._accounts.waited(now_ns - begun_ns)
        self._heard = message is not None
        if message is None:
            loss = conversation.silence(now_ns)
            if loss is not None:
                self._give_up(loss)
            return None
        if conversation.is_back(now_ns):
            conversation.take_up()
        if isinstance(message, Failure):
            if message.session in (b"", self._ledger.session):
                self._refused(error_from(message), now_ns)
        elif isinstance(message, Pong):
            conversation.ponged(message, now_ns)
        elif isinstance(message, GoAway):
            if watch.state is SessionState.CONNECTING:
                reason = f"{self._link.where} is about to stop and takes no new texts; ask again later, or elsewhere."
                self._refused(Overloaded(reason, message.retry_after_ms), now_ns)
        elif isinstance(message, Verdict | Hint | NeedResume | Resync) and message.session == self._ledger.session:
            if isinstance(message, Verdict):
                return self._verdict(message, now_ns, size)
            if isinstance(message, Hint):
                self._hint(message, size)
            elif message.epoch == self._ledger.epoch:
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
        if self._conversation.journal is not None:
            self._conversation.journal.committed(tokens, verdict.finish)
        revised = self._provisional.settle(before, tokens)
        self.statistics.revised += len(revised)
        self.finish = verdict.finish
        flight = self._conversation.flights.pop(verdict.round)
        pending = {request.round: request for request in ledger.in_flight}
        for number in [number for number in self._conversation.flights if number not in pending]:
            self._accounts.lost(self._conversation.flights.pop(number))
        if self._speculating is not None and not self.finish:
            self._speculating.judged(flight, before, pending)
        elif self._shadow is not None and self.plan.mode == "cloud":
            self._beside(self._shadow)
        self._accounts.settle(flight, verdict, len(tokens), now_ns, size)
        if verdict.round in pending:
            self._conversation.flights[verdict.round] = self._accounts.next_streamed(flight, ledger.length, self.plan)
        self._conversation.watch.answered(now_ns, owed=bool(ledger.in_flight))
        return Commit(before, tokens, verdict.accepted, verdict.finish, revised=revised)

    def _beside(self, shadow: Shadow) -> None:
        """The cloud has written on by itself: compare, keep the drafter near, and look at the round trip now and then."""
        ledger = self._ledger
        if not self._alone:
            shadow.compare()
        shadow.keep_near(_READ_ALONG)
        if (ledger.length - ledger.prompt_length) % _PING_EVERY == 1:
            self._conversation.measure()

    def _hint(self, hint: Hint, size: int) -> None:
        in_flight, flight = self._ledger.in_flight, self._conversation.flights.get(hint.round)
        if flight is None or hint.epoch != self._ledger.epoch or in_flight[0].round != hint.round:
            return
        self._accounts.hinted(flight, hint, size)
        if self._speculating is not None and not self._provisional:
            self._speculating.hinted(flight, hint)  # what the caller has been told is not thrown away on a mere hint

    # --- when something goes wrong

    def _give_up(self, loss: LinkLost) -> None:
        """The server is not coming back in time: end with what the edge has written alone, if that is a whole text.

        Raises:
            LinkLost: ``loss``.
        """
        path = self._path
        if not self._alone or path is None:
            raise loss
        last = path.tokens[-1]
        if len(path.tokens) >= self._limit or (path.exhausted and last in self._stop_tokens):
            self.finish = "stop" if last in self._stop_tokens else "length"
        elif path.exhausted:
            raise loss

    def _refused(self, error: ForedraftError, now_ns: int) -> None:
        self._conversation.refused(error, now_ns)
        self._start_over()

    def _start_over(self) -> None:
        """Give up what is in flight: what it held becomes the next draft, from the committed text on."""
        outlook = [] if self._drafting is None else self._drafting.outlook()
        self._ledger.abandon()
        self._conversation.flights.clear()
        if self._path is not None:
            self._path.absorb(self._ledger.tokens, outlook)

    def _resume(self) -> None:
        self._start_over()
        self._conversation.resume()
