"""What reads a hidden state: the target's own head, and the heads of its exits."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from foredraft_shared.messages import Position, SamplingParams, TokenId

from . import sampling
from .target import Logits
from .transformer import Transformer

__all__ = ["ExitHead", "FullLogits", "UntrainedHead"]


class ExitHead(Protocol):
    """Turns hidden states at one layer into guesses of what the full depth will pick.

    It is called with a proven number of rows, of which only the first ``scored`` count.
    """

    def __call__(self, hidden: Tensor, scored: int) -> Logits:
        """[rows, E] float32 -> the view of the first ``scored`` rows."""


class FullLogits:
    """Scores over the whole vocabulary, [rows, V]; a row is looked at alone."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def __len__(self) -> int:
        return self.scores.shape[0]

    def pick(self, row: int, params: SamplingParams, position: Position) -> TokenId:
        return sampling.pick(self.scores[row], params, position)

    def confidence(self, row: int, token: TokenId) -> float:
        """The softmax at temperature 1: a guess, not calibrated."""
        scores = self.scores[row].float()
        return float(torch.exp(scores[token] - torch.logsumexp(scores, 0)))


class UntrainedHead:
    """The final norm and the full head, applied early ("logit lens")."""

    def __init__(self, transformer: Transformer) -> None:
        self._transformer = transformer

    def __call__(self, hidden: Tensor, scored: int) -> FullLogits:
        return FullLogits(self._transformer.score(hidden)[:scored])
