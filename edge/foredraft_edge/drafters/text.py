"""The part every drafter shares: the text it holds, and turning logits into a proposal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.errors import UsageError
from foredraft_shared.messages import Position, SamplingParams, TokenId
from foredraft_shared.sampling import warp, winner

from .base import Proposal

__all__ = ["CachedText", "Text", "choose"]


class Text(ABC):
    """The tokens a drafter holds; a base class that keeps the list and checks the calls.

    A subclass overrides :meth:`_drop` when it keeps something by position (a cache) that must not outlive the text.
    """

    def __init__(self, vocabulary: str) -> None:
        self._vocabulary = vocabulary
        self._text: list[TokenId] = []

    @property
    def vocabulary(self) -> str:
        """Fingerprint of the tokenizer whose ids it speaks; empty when any will do."""
        return self._vocabulary

    @property
    def tokens(self) -> Sequence[TokenId]:
        """The text it holds, its own proposals included."""
        return self._text

    def begin(self, prompt: Sequence[TokenId]) -> None:
        """Drop everything and hold ``prompt``."""
        self._drop(0)
        self._text = [int(token) for token in prompt]

    def extend(self, tokens: Sequence[TokenId]) -> None:
        """Append ``tokens``; read at the next ``draft``."""
        self._text.extend(int(token) for token in tokens)

    def read(self, limit: int) -> int:
        """Nothing is deferred here."""
        return 0

    def review(self, start: Position, params: SamplingParams) -> Sequence[Proposal | None]:
        """One by one: each is taken back, drafted anew, and put there again."""
        proposals = []
        behind = self._text[start:]
        self.rewind(start)
        for index, token in enumerate(behind, start=start):
            proposals.append(next(iter(self.draft(1, params)), None))
            self.rewind(index)
            self.extend([token])
        return proposals

    @abstractmethod
    def draft(self, limit: int, params: SamplingParams) -> Iterator[Proposal]:
        """See :class:`~foredraft_edge.drafters.base.Drafter`."""

    def rewind(self, length: Position) -> None:
        """Keep the first ``length`` tokens.

        Raises:
            UsageError: it holds fewer.
        """
        if not 0 <= length <= len(self._text):
            raise UsageError(f"Cannot rewind to {length}: the drafter holds {len(self._text)} tokens; see follow().")
        self._drop(length)
        del self._text[length:]

    def close(self) -> None:
        """Free what it holds."""
        self.begin(())

    def _drop(self, length: Position) -> None:
        """What stands at ``length`` and beyond is about to leave the text."""
        del length  # nothing is kept by position here


class CachedText(Text):
    """A text read by a model that keeps a cache by position: the base of the drafters with a model.

    The cache holds the first ``_cached`` tokens. To rewind is to lower that number; a backend whose cache must be told
    overrides :meth:`_drop` as well.

    Args:
        vocabulary: fingerprint of the tokenizer.
        context: longest text in tokens; beyond it nothing is proposed.
        input_ids: rows of the embedding.
        ids: ``[head]``, ascending: the target's ids the logits stand for; ``None`` when row ``i`` is id ``i``.
    """

    def __init__(self, vocabulary: str, context: int, input_ids: int, ids: NDArray[np.int32] | None = None) -> None:
        super().__init__(vocabulary)
        self.context = context
        self._input_ids = input_ids
        self._ids = ids
        self._cached = 0

    def begin(self, prompt: Sequence[TokenId]) -> None:
        """Drop everything and hold ``prompt``; read at the next ``draft``. Raises as :meth:`extend`."""
        self._check(prompt)
        super().begin(prompt)

    def extend(self, tokens: Sequence[TokenId]) -> None:
        """Append ``tokens``; read at the next ``draft``.

        Raises:
            UsageError: an id that the draft's embedding does not have.
        """
        self._check(tokens)
        super().extend(tokens)

    def read(self, limit: int) -> int:
        """Read up to ``limit`` tokens that are not cached yet; the last token of the text is left to ``draft``."""
        last = min(len(self._text), self.context) - 1
        stop = min(self._cached + limit, last)
        if self._cached < stop:
            self._read(self._cached, stop)
            self._cached = stop
        return max(0, last - self._cached)

    def review(self, start: Position, params: SamplingParams) -> Sequence[Proposal | None]:
        """In one pass, if the backend can; nothing beyond the context."""
        stop = min(len(self._text), self.context)
        first = max(start, 1)  # in front of the first token there is nothing to go by
        if first >= stop:
            return [None] * (len(self._text) - start)
        self._drop(min(self._cached, first - 1))
        if self._cached < first - 1:
            self._read(self._cached, first - 1)
        rows = self._read_all(first - 1, stop - 1)
        self._cached = stop - 1
        seen = [choose(row, params, position, self._ids) for position, row in enumerate(rows, start=first)]
        return [*[None] * (first - start), *seen, *[None] * (len(self._text) - stop)]

    def draft(self, limit: int, params: SamplingParams) -> Iterator[Proposal]:
        """Propose with the model's logits; ends early when the context is full or the text is empty."""
        for _ in range(limit):
            if not 0 < len(self._text) < self.context:
                return
            proposal = choose(self.logits(), params, len(self._text), self._ids)
            self._text.append(proposal.token)
            yield proposal

    def logits(self) -> NDArray[np.float32]:
        """Logits ``[head]`` of the token after the text. May be overwritten by the next call.

        Raises:
            UsageError: the text is empty, or longer than the context.
        """
        if not 0 < len(self._text) <= self.context:
            raise UsageError(f"The text has {len(self._text)} tokens; the draft reads 1 to {self.context}.")
        # The last token is read anew if all are cached: its logits were not kept.
        start = min(self._cached, len(self._text) - 1)
        if start < self._cached:
            self._drop(start)
        logits = self._read(start, len(self._text))
        self._cached = len(self._text)
        return logits

    @abstractmethod
    def _read(self, start: Position, stop: Position) -> NDArray[np.float32]:
        """Read the text from ``start`` to ``stop``, behind ``start`` cached tokens; logits ``[head]`` after the last of them."""

    def _read_all(self, start: Position, stop: Position) -> NDArray[np.float32]:
        """As :meth:`_read`; logits ``[stop - start, head]`` after each of them. Here one by one."""
        return np.stack([self._read(index, index + 1).copy() for index in range(start, stop)])

    def _check(self, tokens: Sequence[TokenId]) -> None:
        for token in (min(tokens), max(tokens)) if len(tokens) else ():
            if not 0 <= token < self._input_ids:
                raise UsageError(f"Token id {token} is outside the draft's {self._input_ids}; pass the target's ids.")

    def _drop(self, length: Position) -> None:
        self._cached = min(self._cached, length)


def choose(
    logits: NDArray[np.float32],
    params: SamplingParams,
    position: Position,
    ids: NDArray[np.int32] | None = None,
) -> Proposal:
    """The draft's own pick at ``position``, and its probability.

    Args:
        logits: ``[rows]`` given the text before ``position``.
        ids: ``[rows]``, ascending: the target's ids the rows stand for; ``None`` when row ``i`` is id ``i``. Noise is
            named by the target's id, and of equal scores the lower id wins, as in the target.
    """
    if params.greedy:
        row = int(logits.argmax())
        # float32 is enough for a probability that only says how sure the draft is.
        probability = 1.0 / float(np.exp(logits - logits[row]).sum())
        return Proposal(row if ids is None else int(ids[row]), probability)
    rows, scores = warp(logits, params)
    tokens: NDArray[Any] = rows if ids is None else ids[rows]
    best = winner(scores, params.seed, position, tokens)
    probability = 1.0 / float(np.exp((scores - scores[best]).astype(np.float32)).sum())
    return Proposal(int(tokens[best]), probability)
