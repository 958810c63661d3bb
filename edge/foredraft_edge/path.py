"""The path: the text the device believes in, and the draft growing at its end.

The drafter holds one text: the committed tokens, the drafts in flight, a guess at the target's own token that will follow
them, and the next draft::

    committed ........ in flight ........ guess   next draft ...
    └─ ledger.length ┘                    └ start - 1, start ┘

As long as verdicts say what the path says, nothing has to be thrown away. When one says otherwise, the path is cut where
it went wrong and grows again from there. No link here, and no decision: those are the loop's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from foredraft_shared.messages import Position, SamplingParams, TokenId

from .drafters.base import Drafter, Proposal, follow
from .pace import ReadingPace

__all__ = ["Path"]

_REVIEWED = 16
"""Tokens looked at in one piece: each has scores for the whole vocabulary."""


class Path:
    """What a drafter holds, and where the next draft in it begins.

    Args:
        stop_tokens: nothing follows any of these.
        clock_ns: a monotonic clock.
    """

    def __init__(
        self, drafter: Drafter, params: SamplingParams, stop_tokens: Collection[TokenId], clock_ns: Callable[[], int]
    ) -> None:
        self._drafter = drafter
        self._params = params
        self._stop_tokens = stop_tokens
        self._clock_ns = clock_ns
        self._proposals: Iterator[Proposal] | None = None
        self.start: Position = 0
        """Where the next draft begins."""
        self.probabilities: list[float] = []
        """Of the next draft's tokens, one each."""
        self.guess_probability: float | None = None
        """Of the guess before the next draft, if there is one."""
        self.exhausted = False
        """The drafter has nothing to add."""
        self.began_ns: int | None = None
        """When the next draft's first token was begun."""
        self.ended_ns = 0
        """When the drafter was last left."""
        self.drafting_ns = 0
        """Time spent in the drafter since the last draft was taken, wrong guesses included."""
        self.discarded = 0
        """Tokens drafted on wrong guesses, all in all."""
        self._pace = ReadingPace()
        self._reviews = ReadingPace(first_piece=2)  # some drafters take a pass for each token

    @property
    def tokens(self) -> Sequence[TokenId]:
        return self._drafter.tokens

    @property
    def guessed(self) -> list[float]:
        """The probability of the guess before the next draft, if there is one."""
        return [] if self.guess_probability is None else [self.guess_probability]

    @property
    def guess_missing(self) -> bool:
        """The path does not yet reach to where the next draft begins."""
        return len(self._drafter.tokens) < self.start

    def begin(self, tokens: Sequence[TokenId]) -> None:
        """Drop everything and hold ``tokens``."""
        self._drafter.begin(tokens)
        self._restart(len(tokens))

    def reset(self, tokens: Sequence[TokenId]) -> None:
        """Hold exactly ``tokens``, keeping of the drafter's cache what agrees; the next draft begins there."""
        follow(self._drafter, tokens)
        self._restart(len(tokens))

    def catch_up(self, committed: Sequence[TokenId]) -> None:
        """Follow ``committed`` where the path ends before it: the cloud has been writing alone."""
        if self.start < len(committed):
            self.reset(committed)

    @property
    def unread(self) -> int:
        """Tokens the drafter has to read before it can draft at its usual pace."""
        return self._drafter.read(0)

    @property
    def reading_ms(self) -> float:
        """What reading them along adds to the next token's time."""
        return self._pace.along_ms(self.unread)

    def piece_ms(self, budget_ms: float) -> float:
        """What :meth:`read` will take, as far as is known."""
        return self._pace.piece_ms(budget_ms)

    def read(self, budget_ms: float) -> int:
        """Let the drafter read a piece, which takes about ``budget_ms`` or twice a pass; returns the nanoseconds it took.

        In pieces, so that whoever calls can look at the link between them.
        """
        before = self._drafter.read(0)
        begun_ns = self._clock_ns()
        read = before - self._drafter.read(self._pace.piece(budget_ms))
        elapsed_ns = self._clock_ns() - begun_ns
        if read > 0:
            self._pace.took(read, elapsed_ns / 1e6)
        return elapsed_ns

    def review_ms(self, draft_ms: float) -> float:
        """What a piece of :meth:`review` takes, as far as is known; ``draft_ms``: what drafting a token takes."""
        return max(2.0 * draft_ms, self._reviews.piece_ms(draft_ms))

    def review(self, committed: Sequence[TokenId], start: Position) -> tuple[Sequence[Proposal | None], int]:
        """What would have been drafted in place of the tokens of ``committed`` from ``start`` on, of as many of them as take
        about two passes, and the nanoseconds it took; the path follows."""
        begun_ns = self._clock_ns()
        self.reset(committed[: start + min(self._reviews.piece(0.0), _REVIEWED)])
        proposals = self._drafter.review(start, self._params)
        elapsed_ns = self._clock_ns() - begun_ns
        self._reviews.took(len(proposals), elapsed_ns / 1e6)
        return proposals, elapsed_ns

    def grow(self, limit: Position) -> float | None:
        """Draft one token; returns the milliseconds it took, or ``None`` if there was none to draft.

        Args:
            limit: no token may stand there or beyond.
        """
        unread = self.unread
        begun_ns = self._clock_ns()
        if self._proposals is None:
            self._proposals = self._drafter.draft(limit - len(self._drafter.tokens), self._params)
        proposal = next(self._proposals, None)
        self.ended_ns = self._clock_ns()
        elapsed_ns = self.ended_ns - begun_ns
        self.drafting_ns += elapsed_ns
        if self.began_ns is None:
            self.began_ns = begun_ns
        if proposal is None:
            self.exhausted = True
            return None
        if len(self._drafter.tokens) > self.start:
            self.probabilities.append(proposal.probability)
        else:
            self.guess_probability = proposal.probability
        self.exhausted = proposal.token in self._stop_tokens
        if not unread:
            self._pace.took(1, elapsed_ns / 1e6)
        return elapsed_ns / 1e6

    def take(self, most: int) -> tuple[TokenId, ...]:
        """The next draft, to be sent, of at most ``most`` tokens; another begins one guess behind it."""
        size = min(most, len(self.probabilities))
        tokens = tuple(self._drafter.tokens[self.start : self.start + size])
        self.start += size + 1
        rest = self.probabilities[size:]
        self.guess_probability = rest[0] if rest else None
        self.probabilities = rest[1:]
        self.began_ns = None
        self.drafting_ns = 0
        if not rest:
            self.exhausted = bool(tokens) and tokens[-1] in self._stop_tokens
        return tokens

    def absorb(self, committed: Sequence[TokenId], probabilities: Sequence[float]) -> None:
        """What was in flight is so no more: all that the path holds behind ``committed`` becomes the next draft.

        Args:
            probabilities: of the tokens behind ``committed``, as far as they are known.
        """
        held = self._drafter.tokens
        behind = len(held) - len(committed)
        if behind != len(probabilities) or list(held[: len(committed)]) != list(committed):
            self.reset(committed)
            return
        exhausted = self.exhausted
        proposals = self._proposals
        self._restart(len(committed))
        self._proposals = proposals  # it goes on where it was
        self.probabilities = list(probabilities)
        self.exhausted = exhausted and behind > 0

    def agree(self, committed: Sequence[TokenId], before: Position, expected: Sequence[TokenId] = ()) -> bool:
        """Bring the path in line with the committed text; says whether it had foreseen it.

        Args:
            committed: the whole text.
            before: how much of it the path was known to agree with.
            expected: a draft still in flight behind it, if there is one.
        """
        path, length = self._drafter.tokens, len(committed)
        shared = min(length, len(path))
        foreseen = list(path[before:shared]) == list(committed[before:shared])
        if foreseen and shared == length and self.start >= length:
            return True
        if not foreseen:
            self.discarded += max(0, len(path) - length)
        if expected:
            follow(self._drafter, [*committed, *expected], min(before, shared))
            self._restart(length + len(expected) + 1)
        elif foreseen and shared == length:
            self._drafter.rewind(length)  # the path runs on, but no draft was begun where the text now ends
            self._restart(length)
        else:
            follow(self._drafter, committed, min(before, shared))
            self._restart(length)
        return foreseen

    def turn(self, base: Position, expected: Sequence[TokenId], probability: float) -> None:
        """Leave the path: believe that ``expected`` stands at ``base``, with this probability, and draft on from there."""
        path = self._drafter.tokens
        self.discarded += max(0, len(path) - base - len(expected) + 1)
        follow(self._drafter, [*path[:base], *expected], base)
        self._restart(base + len(expected))
        self.guess_probability = probability

    def _restart(self, start: Position) -> None:
        self._proposals = None
        self.exhausted = False
        self.start = start
        self.probabilities = []
        self.guess_probability = None
        self.began_ns = None
