"""Shared-noise sampling in torch: the same token as :mod:`foredraft_shared.sampling`, whose page holds the theory.

Everything that decides between tokens happens in float64 on one row alone, in the order of operations of the numpy
version. What is spared here is work on tokens that cannot survive.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foredraft_shared.messages import Position, SamplingParams, TokenId
from foredraft_shared.sampling import pick as numpy_pick

__all__ = ["pick"]


def pick(scores: Tensor, params: SamplingParams, position: Position) -> TokenId:
    """The token at ``position``, from ``scores`` [V] of any floating dtype."""
    if params.greedy:
        return int(scores.argmax())
    return numpy_pick(scores.double().numpy(), params, position)
