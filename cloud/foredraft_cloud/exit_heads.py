"""What reads a hidden state: the target's own head, and the heads of its exits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from foredraft_shared.messages import Position, SamplingParams, TokenId

from . import sampling
from .target import Logits
from .transformer import Layer, Transformer

__all__ = ["ExitHead", "FullLogits", "RunLogits", "UntrainedHead"]


class ExitHead(Protocol):
    """Turns hidden states at one layer into guesses of what the full depth will pick.

    It sees rows of many sessions at once, always a proven number of them; what it says of a row must not depend on
    the others.
    """

    @property
    def layer(self) -> Layer | None:
        """A layer to run upon the trunk's first, with the keys and values of the trunk's own layer above the exit."""

    def __call__(self, hidden: Tensor) -> Logits:
        """[rows, E] float32 -> a view of as many rows."""


class RunLogits:
    """The rows of one run, taken from what was computed for many.

    Attributes:
        rows: where to find each: (view, its row).
    """

    def __init__(self, rows: Sequence[tuple[Logits, int]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def pick(self, row: int, params: SamplingParams, position: Position) -> TokenId:
        logits, row = self.rows[row]
        return logits.pick(row, params, position)

    def foresee(
        self, row: int, drafted: TokenId | None, params: SamplingParams, position: Position, trust: float
    ) -> tuple[TokenId, float]:
        logits, row = self.rows[row]
        return logits.foresee(row, drafted, params, position, trust)


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
        self, row: int, drafted: TokenId | None, params: SamplingParams, position: Position, trust: float
    ) -> tuple[TokenId, float]:
        """Its own pick, by the softmax at temperature 1: a guess, not calibrated."""
        token = self.pick(row, params, position)
        scores = self.scores[row].float()
        return token, float(torch.exp(scores[token] - torch.logsumexp(scores, 0)))


class UntrainedHead:
    """The final norm and the full head, applied early ("logit lens")."""

    layer = None

    def __init__(self, transformer: Transformer) -> None:
        self._transformer = transformer

    def __call__(self, hidden: Tensor) -> FullLogits:
        return FullLogits(self._transformer.score(hidden))
