"""One session as the cloud sees it: its text, its place in the cache, and the rounds it waits for.

Pure bookkeeping, without model or socket. The rule that makes everything idempotent: **what is already committed is
answered from the text.** A round whose base lies behind the committed text (a repeat, or the edge never got the verdict)
is compared with the committed tokens, which by the one law are what a new verification would pick; only what goes beyond
needs the model. There is therefore no reply cache to keep in step with anything.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace

from foredraft_shared.ledger import Ledger, Relation
from foredraft_shared.messages import (
    Decode,
    Draft,
    FinishReason,
    Open,
    Position,
    Resume,
    Resync,
    SamplingParams,
    Timing,
    TokenId,
    Verdict,
)

from .foresight import Trust
from .rhythm import Rhythm
from .target import Run, Slot

__all__ = ["Pick", "Round", "Session"]

Pick = Callable[[int, Position], TokenId]
"""``pick(row, position)``: the target's token at ``position``, from the scored row ``row``."""

MAX_AHEAD = 8
"""Chained rounds kept per session; a device that sends more is only wasting its own uplink."""
MAX_TOLD_AGAIN = 32
"""Verdicts with which one repeated decode is answered from the text: it may be a few bytes that ask for thousands of
messages. A device that missed more asks on from where it then stands."""


@dataclass(slots=True)
class Round:
    """A round the cloud has taken on."""

    request: Draft | Decode
    arrived_us: int
    computed_us: int = 0
    chained: bool = False
    """It came before the text it builds on was committed."""
    due_us: float | None = None
    """When the device needs the answer, if it has said so."""
    hinted: set[tuple[int, TokenId]] = field(default_factory=set)
    """Outcomes already told to the edge in hints of this round."""

    def __post_init__(self) -> None:
        if self.request.deadline_ms:
            self.due_us = self.arrived_us + 1000 * self.request.deadline_ms

    @property
    def draft(self) -> tuple[TokenId, ...]:
        return self.request.tokens if isinstance(self.request, Draft) else ()

    @property
    def end(self) -> Position:
        """Where a decode ends; a draft needs one verdict wherever it lies."""
        return self.request.base + (self.request.count if isinstance(self.request, Decode) else 1)


class Session:
    """Text, cache slot and rounds of one session.

    Args:
        opened: the message that began or resumed it.
        peer: where its answers go.
        slot: an empty slot of the target.
    """

    def __init__(self, opened: Open | Resume, peer: Hashable, slot: Slot) -> None:
        tokens = opened.prompt if isinstance(opened, Open) else opened.tokens
        self.ledger = Ledger(opened.session, tokens, opened.epoch)
        self.prompt_length = len(tokens) if isinstance(opened, Open) else opened.prompt_length
        self.peer = peer
        self.owner = ""
        """The key that opened it: nobody else resumes, continues or closes it. Empty where nobody proves who he is."""
        self.slot = slot
        self.sampling: SamplingParams = opened.sampling
        self.stop_tokens = frozenset(opened.stop_tokens)
        self.limit: Position = self.prompt_length + opened.max_tokens
        self.hints = opened.hints
        self.lossy_exit = opened.lossy_exit
        self.traceparent = opened.traceparent
        """W3C trace context of the device's caller, or empty."""
        self.round: Round | None = None
        self._ahead: dict[int, Round] = {}
        self._dropped_round = 0
        self.trust = Trust()
        self.heard_us = 0
        """When its device last said something about it."""
        self.admitted = 0
        """Which one it was to be opened here, counted from the start."""
        self.parked = False
        """Nobody is at the other end, as far as is known."""
        self.evicted = False
        """Its room in the cache was given to others; it is read again when a round of it comes."""
        self.rhythm = Rhythm()
        self.answered_us = 0
        """When its last round was answered."""
        self.round_rows = 0
        """Rows of its last round."""
        self.served = 0
        """When the engine last gave this session rows, as a count of passes: who waited longest goes first."""

    # --- what arrives

    def past(self, peer: Hashable, epoch: int) -> bool:
        """Whether what ``peer`` says in ``epoch`` is void: the epoch is over, or is another connection's."""
        return epoch < self.ledger.epoch or (epoch == self.ledger.epoch and peer != self.peer)

    def receive(self, request: Draft | Decode, now_us: int) -> Iterable[Verdict | Resync]:
        """Take a round of the present epoch in; yields answers that need no model."""
        if self.round is not None and self.round.request.round == request.round:
            return  # it is being worked on: its verdict is on the way
        relation = self.ledger.relation(request)
        if relation is Relation.AHEAD:
            if request.round in self._ahead and self.round is None:
                # Repeated, and nothing under way leads there: a late Open, say, has brought back an older text.
                yield Resync(request.session, self.ledger.epoch, self.ledger.length, self.ledger.digest)
                return
            if request.round not in self._ahead and len(self._ahead) >= MAX_AHEAD:
                del self._ahead[min(self._ahead)]
            self._ahead[request.round] = Round(request, now_us, chained=True)
        elif relation is Relation.DIVERGED:
            # A chained round whose assumption just failed: its verdict tells the edge. Only who insists is put right.
            if request.round == self._dropped_round:
                yield Resync(request.session, self.ledger.epoch, self.ledger.length, self.ledger.digest)
            self._dropped_round = request.round
        else:
            yield from self._begin(Round(request, now_us, chained=self.chains(request, now_us)))

    def chains(self, request: Draft | Decode, arrived_us: int) -> bool:
        """Whether it was sent before the verdict it builds on: that verdict is still to come, or left after it had arrived."""
        length = self.ledger.length
        return request.base > length or (request.base == length and arrived_us < self.answered_us)

    def _begin(self, round_: Round) -> Iterable[Verdict | Resync]:
        """Start a round that continues the committed text, or answer it from the text."""
        request = round_.request
        if isinstance(request, Decode):
            known = min(self.ledger.length, round_.end)
            told = min(known, request.base + MAX_TOLD_AGAIN)
            for position in range(request.base, told):
                token = self.ledger.tokens[position]
                yield self._verdict(request, position, token)
            if told < known or round_.end <= self.ledger.length or self.finished:
                return
        else:
            verdict = self._judge(round_, self.ledger.length, lambda row, position: self.ledger.tokens[position])
            if verdict is not None:
                yield verdict
                return
            if self.finished:  # it builds on a text that is complete
                yield Resync(request.session, self.ledger.epoch, self.ledger.length, self.ledger.digest)
                return
        if self.round is not None and request.round < self.round.request.round:
            return  # out of order: a newer round is already being verified
        self.round = round_

    def give_up(self) -> None:
        """Forget the rounds in hand and ahead. Whoever still wants them repeats them."""
        self.round = None
        self._ahead.clear()

    # --- what the engine asks

    @property
    def finished(self) -> bool:
        """The text is complete: nothing can be committed any more."""
        last = self.ledger.length - 1
        return last >= self.prompt_length and bool(self._finish(self.ledger.tokens[last], last))

    @property
    def device(self) -> Hashable:
        """Who shares the cloud with others: a key, or a connection where nobody proves who he is."""
        return self.owner or self.peer

    @property
    def wanted(self) -> bool:
        """Somebody waits for it: a round, or the first one that will follow its prompt."""
        return self.round is not None or not (self.parked or self.evicted)

    @property
    def unread(self) -> int:
        """Committed tokens not yet in the cache; the last one is always fed together with a round."""
        return self.ledger.length - self.slot.length

    @property
    def waiting_rows(self) -> int:
        """Rows it needs until its round, or its prompt, is done."""
        if self.round is None:
            return max(0, self.unread - 1)
        return self.unread + len(self._rest(self.round))

    def prompt_run(self, rows: int) -> Run:
        """A piece of at most ``rows`` tokens of the unread text, the last token excepted."""
        begin = self.slot.length
        return Run(self.slot, tuple(self.ledger.tokens[begin : min(begin + rows, self.ledger.length - 1)]), 0)

    def round_run(self) -> Run:
        """What verifies the round in hand: the unread text, then the part of the draft beyond the committed text."""
        assert self.round is not None
        rest = self._rest(self.round)
        return Run(self.slot, (*self.ledger.tokens[self.slot.length :], *rest), len(rest) + 1)

    def hint(self, pick: Pick, rows: int) -> Verdict | None:
        """The verdict that an exit's picks would give; ``None`` if ``rows`` rows do not settle it."""
        assert self.round is not None
        return self._judge(self.round, self.ledger.length + rows, self._known_then(pick))

    def commit(self, pick: Pick, rows: int, now_us: int, computed_us: int) -> Iterable[Verdict | Resync]:
        """Judge the round in hand with the full depth's picks, commit, and begin what was waiting for this.

        If all of ``rows`` rows agree with the draft and there is more of it (an exit took a token for wrong that was not),
        what agrees is committed without a word, and the round stays in hand for the rest.
        """
        round_ = self.round
        assert round_ is not None
        round_.computed_us += computed_us
        before = self.ledger.length
        if isinstance(round_.request, Decode):
            token = pick(0, before)
            tokens: tuple[TokenId, ...] = (token,)
            verdict = self._verdict(round_.request, before, token)
        else:
            judged = self._judge(round_, before + rows, self._known_then(pick))
            if judged is None:
                self.ledger.extend(round_.draft[before - round_.request.base :][:rows])
                return
            verdict = judged
            forced = round_.request.forced
            self.trust.learn(len(round_.draft) - forced, verdict.accepted - forced)
            tokens = (*round_.request.tokens[: verdict.accepted], verdict.token)[before - round_.request.base :]
        self.ledger.extend(tokens)
        queued_us = max(0, now_us - round_.arrived_us - round_.computed_us)
        yield replace(verdict, timing=Timing(queued_us, round_.computed_us))
        if isinstance(round_.request, Draft) or verdict.finish or round_.end <= self.ledger.length:
            self.round = None
        else:
            round_.arrived_us, round_.computed_us, round_.due_us = now_us, 0, None
        if self.round is None:
            yield from self._promote()

    # --- inside

    def _promote(self) -> Iterable[Verdict | Resync]:
        """Begin the waiting rounds that the committed text has reached; forget those it has passed by."""
        for number in sorted(self._ahead):
            if self.round is not None:
                return
            round_ = self._ahead[number]
            relation = self.ledger.relation(round_.request)
            if relation is Relation.AHEAD:
                continue
            del self._ahead[number]
            if relation is not Relation.DIVERGED and not self.finished:
                yield from self._begin(round_)

    def _rest(self, round_: Round) -> tuple[TokenId, ...]:
        """The draft tokens beyond the committed text that the limit leaves room for."""
        known = self.ledger.length - round_.request.base
        room = self.limit - self.ledger.length - 1
        return round_.draft[known : known + room] if known <= len(round_.draft) else ()

    def _known_then(self, pick: Pick) -> Pick:
        length = self.ledger.length
        return lambda row, position: (
            self.ledger.tokens[position] if position < length else pick(position - length, position)
        )

    def _judge(self, round_: Round, until: Position | None, pick: Pick) -> Verdict | None:
        """Walk the draft until the target disagrees, a stop token is written, or the limit is reached.

        Returns ``None`` if the walk would pass ``until``: what is known does not settle the round.
        """
        request = round_.request
        assert isinstance(request, Draft)
        accepted = 0
        while True:
            position = request.base + accepted
            if until is not None and position >= until:
                return None
            drafted = request.tokens[accepted] if accepted < len(request.tokens) else None
            given = accepted < request.forced and position >= self.ledger.length
            token = drafted if given and drafted is not None else pick(accepted, position)
            finish = self._finish(token, position)
            if finish or token != drafted:
                return Verdict(request.session, request.epoch, request.round, request.base, accepted, token, finish)
            accepted += 1

    def _verdict(self, decode: Decode, position: Position, token: TokenId) -> Verdict:
        return Verdict(decode.session, decode.epoch, decode.round, position, 0, token, self._finish(token, position))

    def _finish(self, token: TokenId, position: Position) -> FinishReason:
        if position < self.prompt_length:
            return ""
        if token in self.stop_tokens:
            return "stop"
        return "length" if position + 1 >= self.limit else ""
