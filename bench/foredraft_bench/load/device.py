"""A simulated device: writes one known text after another, as a device with a draft model would.

A pure state machine: what arrived and what time it is come in, messages come out. It drafts from the text it knows, wrong
where its pattern says so, and takes its time for it. Everything the target commits is compared with what it knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from foredraft_shared.errors import Diverged, ServerRefused, StaleVerdict
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import (
    Close,
    CloudMessage,
    Decode,
    Draft,
    EdgeMessage,
    Failure,
    NeedResume,
    Open,
    Position,
    Resume,
    Resync,
    SamplingParams,
    TokenId,
    Verdict,
)

from .pattern import Pattern

__all__ = ["Device", "Habits", "KnownText", "Mode", "Seen"]

Mode: TypeAlias = Literal["speculate", "cloud"]
"""``speculate``: the device drafts. ``cloud``: it lets the target write alone."""


@dataclass(slots=True)
class KnownText:
    """A prompt, and what the target says after it."""

    prompt: tuple[TokenId, ...]
    sampling: SamplingParams
    max_tokens: int
    truth: tuple[TokenId, ...] = ()
    """Empty: not known yet, so only mode ``cloud`` can write it."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How devices behave."""

    mode: Mode = "speculate"
    draft_length: int = 4
    ahead: bool = True
    """Draft on while a round is in flight."""
    window: int = 1
    """Rounds in flight; 2 chains them."""
    token_s: float = 0.0
    """What drafting a token takes."""
    hints: bool = False
    """Ask for hints, and do nothing with them."""
    repeat_s: float = 5.0
    """Silence after which what is in flight is said again."""
    pause_s: float = 0.0
    """Between a text's end and the next one's beginning."""


@dataclass(slots=True)
class Seen:
    """What a device saw; instants and durations in seconds."""

    commits: list[tuple[float, int]] = field(default_factory=list)
    """When, and how many tokens."""
    rounds: list[tuple[float, float]] = field(default_factory=list)
    """When a verdict came, and how long after its draft was sent; in mode ``cloud``, after the verdict before it."""
    first_tokens: list[tuple[float, float]] = field(default_factory=list)
    """When, and how long after Open was sent."""
    drafted: int = 0
    accepted: int = 0
    texts: int = 0
    """Written to their end."""
    wrong: int = 0
    """Texts that are not what the device knew."""
    resumes: int = 0
    refusals: int = 0
    """Failures that said to come back later."""
    written: list[tuple[KnownText, tuple[TokenId, ...]]] = field(default_factory=list)
    """Texts written to their end, only where asked for."""


@dataclass(slots=True)
class _Block:
    """The next draft: what it assumes, what it says, and when the drafter is done with it."""

    assuming: tuple[TokenId, ...]
    tokens: tuple[TokenId, ...]
    ready_at: float


class Device:
    """See the module.

    Args:
        number: tells it from others; its sessions are named by it.
        texts: written in this order, again and again, from the one of its number on.
        start_at: when it begins.
        count: of the texts it writes; ``None``: no end.
        keep: remember the texts it wrote.

    :meth:`hear` raises ServerRefused when the server says something that waiting does not mend.
    """

    def __init__(
        self,
        number: int,
        texts: Sequence[KnownText],
        habits: Habits,
        pattern: Pattern,
        *,
        start_at: float,
        count: int | None = None,
        keep: bool = False,
    ) -> None:
        self.number = number
        self.seen = Seen()
        self._texts = texts
        self._habits = habits
        self._pattern = pattern
        self._keep = keep
        self._left = count
        """Texts still to be begun; ``None``: no end."""
        self._begun = 0
        self._begin_at = start_at
        self._ledger: Ledger | None = None
        self._text = texts[0]
        self._next: _Block | None = None
        self._sent_at: dict[int, float] = {}
        self._opened_at = 0.0
        self._heard_at = 0.0
        self._good = True

    @property
    def done(self) -> bool:
        """It has written all it was to write."""
        return self._ledger is None and self._left == 0

    @property
    def due(self) -> float | None:
        """When it wants to say something, if nothing arrives before."""
        if self.done:
            return None
        if self._ledger is None:
            return self._begin_at
        block = self._next
        again_at = self._heard_at + self._habits.repeat_s
        if block is None or len(self._ledger.in_flight) >= self._room(block):
            return again_at
        return min(block.ready_at, again_at) if self._ledger.in_flight else block.ready_at

    def speak(self, now: float) -> Iterator[EdgeMessage]:
        """What it says at ``now``, if it is due."""
        while (due := self.due) is not None and due <= now:
            if self._ledger is None:
                yield self._open(now)
                if self._habits.mode == "cloud":
                    yield self._ask(now)
            elif now >= self._heard_at + self._habits.repeat_s and self._ledger.in_flight:
                self._heard_at = now
                yield from self._ledger.in_flight
            else:
                yield self._send(now)

    def hear(self, message: CloudMessage, now: float) -> Iterator[EdgeMessage]:
        """Take in an answer; yields what follows from it at once."""
        ledger = self._ledger
        if ledger is None or getattr(message, "session", b"") not in (b"", ledger.session):
            return
        if isinstance(message, Verdict):
            yield from self._verdict(ledger, message, now)
        elif isinstance(message, NeedResume | Resync):
            if message.epoch == ledger.epoch:
                yield from self._resume(ledger, now)
        elif isinstance(message, Failure):
            if not message.retryable:
                raise ServerRefused(f"the server refuses a simulated device: {message.message}")
            self.seen.refusals += 1
            self._ledger = None
            self._begun -= 1
            self._begin_at = now + max(message.retry_after_ms, 10) / 1000.0
            if self._left is not None:
                self._left += 1

    def leave(self) -> Iterator[EdgeMessage]:
        """Stop in the middle, politely."""
        if self._ledger is not None:
            yield Close(self._ledger.session, self._ledger.epoch)
        self._ledger, self._left = None, 0

    # --- speaking

    def _open(self, now: float) -> Open:
        self._text = text = self._texts[(self.number + self._begun) % len(self._texts)]
        self._begun += 1
        if self._left is not None:
            self._left -= 1
        name = hashlib.blake2b(f"{self.number}/{self._begun}/{now}".encode(), digest_size=16).digest()
        self._ledger = ledger = Ledger(name, text.prompt)
        self._sent_at.clear()
        self._opened_at = self._heard_at = now
        self._good = True
        self._next = None
        if self._habits.mode == "speculate":
            self._draft((), now)
        return Open(ledger.session, text.prompt, text.sampling, text.max_tokens, hints=self._habits.hints)

    def _ask(self, now: float) -> Decode:
        assert self._ledger is not None
        request = self._ledger.request(self._limit - self._ledger.length)
        self._sent_at[request.round] = now
        return request

    def _send(self, now: float) -> Draft:
        assert self._ledger is not None
        block = self._next
        assert block is not None
        draft = self._ledger.propose(block.tokens, assuming=block.assuming)
        self._sent_at[draft.round] = now
        self._next = None
        if self._habits.ahead or self._habits.window > 1:
            guess = self._token(draft.base + len(block.tokens))
            self._draft((*block.assuming, *block.tokens, guess), now)
        return draft

    # --- drafting

    @property
    def _limit(self) -> Position:
        return len(self._text.prompt) + self._text.max_tokens

    def _room(self, block: _Block) -> int:
        """Rounds that may be in flight when this draft leaves, itself included."""
        return self._habits.window if block.assuming else 1

    def _token(self, position: Position) -> TokenId:
        """What it drafts there: the truth, or its neighbour."""
        truth = self._text.truth[position - len(self._text.prompt)]
        return truth if self._pattern.hit(self.number, position) else truth ^ 1

    def _draft(self, assuming: tuple[TokenId, ...], now: float) -> None:
        """Begin the next draft, behind the committed text and what is assumed to follow it."""
        assert self._ledger is not None
        base = self._ledger.length + len(assuming)
        if base >= self._limit:
            self._next = None
            return
        count = min(self._habits.draft_length, self._limit - base - 1)
        tokens = tuple(self._token(base + index) for index in range(count))
        self._next = _Block(assuming, tokens, now + self._habits.token_s * (count + bool(assuming)))

    # --- hearing

    def _verdict(self, ledger: Ledger, verdict: Verdict, now: float) -> Iterator[EdgeMessage]:
        request = next((round_ for round_ in ledger.in_flight if round_.round == verdict.round), None)
        try:
            tokens = ledger.commit(verdict)
        except StaleVerdict:
            return
        except Diverged:
            yield from self._resume(ledger, now)
            return
        seen, prompt = self.seen, len(self._text.prompt)
        first = ledger.length - len(tokens) == prompt
        seen.commits.append((now, len(tokens)))
        if first:
            seen.first_tokens.append((now, now - self._opened_at))
        elif isinstance(request, Decode):
            seen.rounds.append((now, now - self._heard_at))
        else:
            seen.rounds.append((now, now - self._sent_at[verdict.round]))
        self._heard_at = now
        if isinstance(request, Draft):
            seen.drafted += len(request.tokens)
            seen.accepted += verdict.accepted
        if self._text.truth:
            known = self._text.truth[ledger.length - len(tokens) - prompt : ledger.length - prompt]
            self._good = self._good and tokens == known
        if verdict.finish or not self._good:
            yield from self._finish(ledger, now)
        elif self._habits.mode == "speculate":
            block = self._next
            if block is not None and block.assuming[: len(tokens)] == tokens:
                block.assuming = block.assuming[len(tokens) :]
            elif not ledger.in_flight or block is not None:
                self._draft((), now)

    def _finish(self, ledger: Ledger, now: float) -> Iterator[EdgeMessage]:
        self.seen.texts += 1
        self.seen.wrong += not self._good
        if self._keep:
            self.seen.written.append((self._text, tuple(ledger.written)))
        self._ledger = self._next = None
        self._begin_at = now + self._habits.pause_s
        yield Close(ledger.session, ledger.epoch)

    def _resume(self, ledger: Ledger, now: float) -> Iterator[EdgeMessage]:
        """The server does not hold the text any more: give it all of it."""
        self.seen.resumes += 1
        self._heard_at = now
        ledger.raise_epoch()
        text = self._text
        yield Resume(
            ledger.session, ledger.epoch, tuple(ledger.tokens), ledger.prompt_length, text.sampling, text.max_tokens,
            hints=self._habits.hints,
        )  # fmt: skip
        if self._habits.mode == "cloud":
            yield self._ask(now)
        else:
            self._draft((), now)
