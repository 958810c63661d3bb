"""What reads a hidden state: the target's own head, and the heads of its exits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from foredraft_shared.messages import Position, SamplingParams, TokenId

from . import sampling
from .transformer import Transformer

__all__ = ["ExitHead", "FullLogits", "ManyLogits", "RunLogits", "UntrainedHead"]


class ExitHead(Protocol):
    """Turns hidden states at one layer into guesses of what the full depth will pick.

    It sees rows of many sessions at once, always a proven number of them; what it says of a row must not depend on
    the others.
    """

    def __call__(self, hidden: Tensor) -> ManyLogits:
        """[rows, E] float32 -> a view of as many rows."""


class ManyLogits(Protocol):
    """The scores of rows of many runs."""

    def pick(self, row: int, params: SamplingParams, position: Position) -> TokenId:
        """See :meth:`~foredraft_cloud.target.Logits.pick`."""

    def foresee(
        self, row: int, drafted: TokenId | None, params: SamplingParams, position: Position, before: int, trust: float
    ) -> tuple[TokenId, float]:
        """See :meth:`~foredraft_cloud.target.Logits.foresee`.

        Args:
            before: how many drafted tokens of the round stand before the one that is foreseen.
        """


class RunLogits:
    """The rows of one run, taken from what was computed for many.

    Attributes:
        rows: where to find each: (view, its row).
    """

    def __init__(self, rows: Sequence[tuple[ManyLogits, int]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def pick(self, row: int, params: SamplingParams, position: Position) -> TokenId:
        logits, row = self.rows[row]
        return logits.pick(row, params, position)

    def foresee(
        self, row: int, drafted: TokenId | None, params: SamplingParams, position: Position, trust: float
    ) -> tuple[TokenId, float]:
        logits, found = self.rows[row]
        return logits.foresee(found, drafted, params, position, row, trust)


class FullLogits:
    """Scores over the whole vocabulary; a row is looked at alone.

    Attributes:
        scores: [rows, V]
    """

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def __len__(self) -> int:
        return self.scores.shape[0]

    def pick(self, row: int, params: SamplingParams, position: Position) -> TokenId:
        return sampling.pick(self.scores[row], params, position)

    def foresee(
        self, row: int, drafted: TokenId | None, params: SamplingParams, position: Position, before: int, trust: float
    ) -> tuple[TokenId, float]:
        """Its own pick, by the softmax at temperature 1: a guess, not calibrated."""
        token = self.pick(row, params, position)
        scores = self.scores[row].float()
        return token, float(torch.exp(scores[token] - torch.logsumexp(scores, 0)))


class UntrainedHead:
    """The final norm and the full head, applied early ("logit lens")."""

    def __init__(self, transformer: Transformer) -> None:
        self._transformer = transformer

    def __call__(self, hidden: Tensor) -> FullLogits:
        return FullLogits(self._transformer.score(hidden))
