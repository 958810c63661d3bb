"""Shared-noise sampling in torch: the same token as :mod:`foredraft_shared.sampling`, whose page holds the theory.

A row on the processor goes to the numpy version, which takes a tenth of torch's time for an argmax of a vocabulary and a
third for the hash; the torch version is for rows on an accelerator. Both look at one row alone, in float64 and in the
same order of operations, so that a pick depends on nothing but its row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foredraft_shared.messages import Position, SamplingParams, TokenId
from foredraft_shared.sampling import noise_state
from foredraft_shared.sampling import pick as numpy_pick

__all__ = ["gumbel", "noise_bits", "pick", "pick_on_device", "warp"]

_MASK = 0xFFFFFFFF


def _times(value: Tensor, factor: int) -> Tensor:
    """``value * factor`` modulo 2**32; int64 wraps around, and the low bits of a product do not mind."""
    return value.mul(factor).bitwise_and_(_MASK)


def _mix(value: Tensor) -> Tensor:
    """The finaliser of MurmurHash3 on int64 that hold 32 bits."""
    value = _times(value ^ (value >> 16), 0x85EBCA6B)
    value = _times(value ^ (value >> 13), 0xC2B2AE35)
    return value ^ (value >> 16)


def noise_bits(seed: int, position: Position, tokens: Tensor) -> Tensor:
    """32 hashed bits for each of ``tokens`` (int64, any shape), as int64."""
    state = noise_state(seed, position)
    mixed = _times(tokens, 0x9E3779B1).add_(state).bitwise_and_(_MASK)
    return _mix(_mix(mixed).bitwise_xor_(state))


def gumbel(seed: int, position: Position, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise for each of ``tokens`` at ``position``; same shape, float64."""
    uniform = noise_bits(seed, position, tokens).double().add_(0.5).mul_(2.0**-32)
    return uniform.log_().neg_().log_().neg_()


def warp(scores: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """The tokens that survive temperature, top-k, top-p and min-p, and their tempered scores.

    Args:
        scores: [V] logits of any floating dtype.

    Returns:
        (tokens int64, scores float64), each [survivors], tokens ascending.
    """
    tempered = scores.double().div_(params.temperature)
    floor = -math.inf  # survivors are at least this probable
    if 0 < params.top_k < tempered.numel():
        floor = float(torch.topk(tempered, params.top_k, sorted=False).values.min())
    if params.top_p < 1.0:
        floor = max(floor, _nucleus(tempered, floor, params.top_p))
    if params.min_p > 0.0:
        floor = max(floor, float(tempered.max()) + math.log(params.min_p))
    tokens = (tempered >= floor if floor > -math.inf else tempered > floor).nonzero().squeeze(1)
    return tokens, tempered[tokens]


def _nucleus(tempered: Tensor, floor: float, share: float) -> float:
    """The score of the last token of the smallest set whose mass reaches ``share`` of the tokens from ``floor`` up."""
    kept = tempered[tempered >= floor] if floor > -math.inf else tempered
    top = kept.max()
    total = (kept - top).exp_().sum()
    best = kept
    for reach in (4.0, 8.0, 16.0, math.inf):
        best = kept[kept >= top - reach].sort(descending=True).values
        last = int(torch.searchsorted((best - top).exp_().cumsum(0) / total, share))
        if last < best.numel():
            return float(best[last])
    return float(best[-1])


def pick(scores: Tensor, params: SamplingParams, position: Position) -> TokenId:
    """The token at ``position``.

    Args:
        scores: [V] logits given the text before ``position``, of any floating dtype.
        position: absolute, prompt included: the noise is named by it.
    """
    if scores.device.type == "cpu":
        return numpy_pick((scores if scores.itemsize >= 4 else scores.float()).numpy(), params, position)
    return pick_on_device(scores, params, position)


def pick_on_device(scores: Tensor, params: SamplingParams, position: Position) -> TokenId:
    """:func:`pick` in torch, wherever ``scores`` lie."""
    if params.greedy:
        return int(scores.argmax())
    tokens, tempered = warp(scores, params)
    return int(tokens[(tempered + gumbel(params.seed, position, tokens)).argmax()])
