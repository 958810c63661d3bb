"""Sampling with shared noise: which token stands at a position.

The theory. Let ``log p`` be the target's log-probabilities after the warps and ``g`` independent Gumbel noise, one number
a token. Then ``argmax(log p + g)`` is a sample of ``p`` (the Gumbel-max trick). If ``g`` is a fixed function of (seed,
position, token), the sample is a fixed function of (target, text, seed), so it does not matter who computes it, when, or
how often: that is the one law of this project. The edge adds the *same* noise to its draft's ``log q``; since both sides
look for the maximum of nearly the same numbers, they agree with probability at least (1 - TV) / (1 + TV), where TV is the
total variation between ``p`` and ``q`` (Daliri, Musco, Suresh: "Coupling without communication", theorem 1). The cloud's
pick is the truth and the edge's a guess at it; no probability ever crosses the wire.

The noise comes from an integer hash and not from any library's generator, whose streams differ between versions, devices
and batch shapes. Adding a constant to ``log p`` moves no maximum, so the scores here are unnormalised logits divided by
the temperature.

The warps keep sets, never ranks: "the top k" are all tokens at least as probable as the k-th, so that ties cannot be
resolved differently on two machines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .messages import Position, SamplingParams, TokenId

__all__ = ["agreement_bound", "gumbel", "noise_bits", "noise_state", "pick", "probabilities", "warp", "winner"]

_U32 = np.uint32
_FEW = 2048
"""Tokens of which all noises are computed."""
_NEAR = 5.0
"""Below the greatest score; any value is right, and this one leaves few candidates."""


def _mix(value: int) -> int:
    """The finaliser of MurmurHash3 (public domain): a bijection of 32 bits with full avalanche."""
    value ^= value >> 16
    value = value * 0x85EBCA6B & 0xFFFFFFFF
    value ^= value >> 13
    value = value * 0xC2B2AE35 & 0xFFFFFFFF
    return value ^ (value >> 16)


def _mix_array(value: NDArray[np.uint32]) -> NDArray[np.uint32]:
    value = (value ^ (value >> _U32(16))) * _U32(0x85EBCA6B)
    value = (value ^ (value >> _U32(13))) * _U32(0xC2B2AE35)
    return value ^ (value >> _U32(16))


def noise_state(seed: int, position: Position) -> int:
    """What seed and position contribute to the hash: 32 bits, shared by every token at the position."""
    state = 0
    for word in (seed & 0xFFFFFFFF, seed >> 32, position & 0xFFFFFFFF):
        state = _mix((state + 0x9E3779B9 & 0xFFFFFFFF) ^ word)
    return state


def noise_bits(seed: int, position: Position, tokens: NDArray[np.integer]) -> NDArray[np.uint32]:
    """32 hashed bits for each of ``tokens``, the same on every machine.

    Args:
        tokens: token ids, any shape but ``()``.

    Returns:
        ``uint32`` of the shape of ``tokens``.
    """
    state = _U32(noise_state(seed, position))
    # The token enters last and is mixed twice: neighbouring ids must not have neighbouring noise.
    return _mix_array(_mix_array(tokens.astype(np.uint32) * _U32(0x9E3779B1) + state) ^ state)


def gumbel(seed: int, position: Position, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
    """Standard Gumbel noise for each of ``tokens`` at ``position``; same shape, ``float64``."""
    return _gumbel_of(noise_bits(seed, position, tokens))


def _gumbel_of(bits: NDArray[np.uint32]) -> NDArray[np.float64]:
    return -np.log(-np.log((bits.astype(np.float64) + 0.5) * 2.0**-32))


def winner(scores: NDArray[np.float64], seed: int, position: Position, tokens: NDArray[np.integer]) -> int:
    """Where ``scores + gumbel(seed, position, tokens)`` is greatest: the first such index.

    Two logarithms for each of a whole vocabulary cost more than all else in a pick. So only those noises are computed that can
    matter: of tokens whose scores are near the greatest, and of those whose hash is so high that they may beat the best of these.
    """
    if scores.size <= _FEW:
        return int((scores + gumbel(seed, position, tokens)).argmax())
    bits = noise_bits(seed, position, tokens)
    least = scores.max() - _NEAR
    near = scores >= least
    to_beat = float((scores[near] + _gumbel_of(bits[near])).max())
    # Noise above x means a uniform number above exp(-exp(-x)); a little less, for the rounding of all this.
    enough = max(0.0, np.exp(-np.exp(least - to_beat)) - 1e-6) * 2.0**32
    candidates = np.flatnonzero(near | (bits >= enough))
    return int(candidates[(scores[candidates] + _gumbel_of(bits[candidates])).argmax()])


def warp(scores: NDArray[np.floating], params: SamplingParams) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens that survive temperature, top-k, top-p and min-p, and their tempered scores.

    Args:
        scores: ``[vocabulary]`` logits.

    Returns:
        ``(tokens, scores)``, each ``[survivors]``, tokens ascending.
    """
    tempered = scores.astype(np.float64)
    tempered /= params.temperature
    best = float(tempered.max())
    floor = -np.inf  # tokens with this score or more survive; -inf itself never does
    if 0 < params.top_k < tempered.size:
        floor = float(np.partition(tempered, -params.top_k)[-params.top_k])
    if params.top_p < 1.0:
        floor = max(floor, _nucleus(tempered if floor == -np.inf else tempered[tempered >= floor], best, params.top_p))
    if params.min_p > 0.0:
        floor = max(floor, best + float(np.log(params.min_p)))
    tokens = np.flatnonzero(tempered > floor if floor == -np.inf else tempered >= floor)
    return tokens, tempered if tokens.size == tempered.size else tempered[tokens]


def _nucleus(tempered: NDArray[np.float64], best: float, top_p: float) -> float:
    """The lowest score among the most probable tokens whose mass reaches ``top_p``.

    Sorting a whole vocabulary costs more than a shallow draft's step, and a nucleus lies near the maximum: so the mass of
    all is summed, and only the scores near the maximum are sorted if they hold enough of it.
    """
    total = float(np.exp(tempered - best).sum())
    for margin in (3.0, 6.0, 12.0, np.inf):
        near = np.sort(tempered[tempered >= best - margin])[::-1]
        mass = np.cumsum(np.exp(near - best)) / total
        if mass[-1] >= top_p:
            break
    last = int(np.searchsorted(mass, top_p, side="left"))
    return float(near[min(last, near.size - 1)])


def pick(scores: NDArray[np.floating], params: SamplingParams, position: Position) -> TokenId:
    """The token at ``position``.

    Args:
        scores: ``[vocabulary]`` logits given the text before ``position``.
        position: absolute, prompt included: the noise is named by it.
    """
    if params.greedy:
        return int(np.argmax(scores))
    tokens, tempered = warp(scores, params)
    return int(tokens[winner(tempered, params.seed, position, tokens)])


def probabilities(scores: NDArray[np.floating], params: SamplingParams) -> NDArray[np.float64]:
    """The distribution that :func:`pick` samples, ``[vocabulary]``; greedy is a point mass."""
    result = np.zeros(scores.size)
    if params.greedy:
        result[int(np.argmax(scores))] = 1.0
        return result
    tokens, tempered = warp(scores, params)
    mass = np.exp(tempered - tempered.max())
    result[tokens] = mass / mass.sum()
    return result


def agreement_bound(p: NDArray[np.floating], q: NDArray[np.floating]) -> float:
    """The least probability with which two sides that share noise pick the same token: (1 - TV) / (1 + TV)."""
    variation = 0.5 * float(np.abs(p - q).sum())
    return (1.0 - variation) / (1.0 + variation)
