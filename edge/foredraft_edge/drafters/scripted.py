"""A drafter that says what a test tells it to, and is wrong where a test wants it wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from foredraft_shared.messages import Position, SamplingParams, TokenId
from foredraft_shared.sampling import noise_bits

from .base import Proposal
from .text import Text

__all__ = ["Script", "ScriptedDrafter"]

Script: TypeAlias = Callable[[Sequence[TokenId]], "TokenId | None"]
"""The next token of a text, or ``None`` when there is nothing to propose."""


class ScriptedDrafter(Text):
    """Proposes what ``script`` says.

    Args:
        script: a function of the text so far; or the whole text, prompt included, of which the token at the current
            position is proposed.
        wrong_at: positions at which it proposes another token instead.
        error_rate: share of the other positions at which it does so too; which ones follows from ``seed`` and the
            position, so that a rewound position goes wrong again.
        wrong: makes the other token out of the right one; by default its neighbour (``token ^ 1``).
        probability: what every proposal claims.
    """

    def __init__(
        self,
        script: Script | Sequence[TokenId],
        *,
        vocabulary: str = "",
        wrong_at: Collection[Position] = (),
        error_rate: float = 0.0,
        seed: int = 0,
        wrong: Callable[[TokenId], TokenId] = lambda token: token ^ 1,
        probability: float = 1.0,
    ) -> None:
        super().__init__(vocabulary)
        self._script = script
        self._wrong_at = frozenset(wrong_at)
        self._error_rate = error_rate
        self._seed = seed
        self._wrong = wrong
        self._probability = probability

    def draft(self, limit: int, params: SamplingParams) -> Iterator[Proposal]:
        """Propose what the script says; ``params`` plays no part."""
        for _ in range(limit):
            position = len(self._text)
            if callable(self._script):
                token = self._script(tuple(self._text))
            else:
                token = self._script[position] if position < len(self._script) else None
            if token is None:
                return
            if self._errs(position):
                token = self._wrong(token)
            self._text.append(token)
            yield Proposal(token, self._probability)

    def _errs(self, position: Position) -> bool:
        if position in self._wrong_at:
            return True
        return int(noise_bits(self._seed, position, np.zeros(1, np.int64))[0]) < self._error_rate * 2**32
