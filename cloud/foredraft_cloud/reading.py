"""What the head of an exit says: its most probable tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from foredraft_shared.messages import TokenId

from .linear import Linear

if TYPE_CHECKING:
    from .transformer import Layer

__all__ = ["CONSIDERED", "Reader", "Said", "said"]

CONSIDERED = 64
"""Tokens of a row that matter, the most probable ones."""


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads a state on the way: one more layer, a norm, a matrix, and the rows of the tokens that it can say."""

    layer: Layer | None
    norm: Tensor  # [E] float32
    map: Linear  # [R, E] -> [R, E]
    rows: Linear  # [R, E] -> [R, V]
    tokens: Tensor  # [V] int64, ascending


@dataclass(slots=True)
class Said:
    """What a head says in a row."""

    tokens: list[TokenId]
    """The most probable first: :data:`CONSIDERED`, or all that the head knows."""
    logs: list[float]
    """Of their probabilities, at temperature 1."""
    doubt: float
    """The entropy of all, in nats."""


def said(scores: Tensor, tokens: Tensor) -> list[Said]:
    """By row.

    Args:
        scores: [R, V] of any float.
        tokens: [V] int64, the ids that they belong to.
    """
    logs = scores.float().log_softmax(1)
    top = logs.topk(min(CONSIDERED, logs.shape[1]))
    doubts = -(logs.exp() * logs).sum(1)
    return list(map(Said, tokens[top.indices].tolist(), top.values.tolist(), doubts.tolist()))
