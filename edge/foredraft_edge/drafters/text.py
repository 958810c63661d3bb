"""The part every drafter shares: the text it holds, and turning logits into a proposal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.errors import UsageError
from foredraft_shared.messages import Position, SamplingParams, TokenId
from foredraft_shared.sampling import gumbel, warp

from .base import Proposal

__all__ = ["Text", "choose"]


class Text:
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
    best = int((scores + gumbel(params.seed, position, tokens)).argmax())
    probability = 1.0 / float(np.exp(scores - scores[best]).sum())
    return Proposal(int(tokens[best]), probability)
