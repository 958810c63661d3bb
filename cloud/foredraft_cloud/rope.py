"""Rotary position embedding: the angle of every (position, pair of dimensions), as transformers computes it.

Each head's dimensions are rotated in pairs by ``position * frequency``; the variants differ in the frequencies only, and
yarn also scales the result. Sources: RoFormer (2104.09864); linear: "Extending context window of LLMs via positional
interpolation" (2306.15595); llama3: the reference code of Llama 3.1; yarn: 2309.00071.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foredraft_shared.errors import ModelUnsupported
from foredraft_shared.models.config import Rope

__all__ = ["frequencies", "rotations"]


def frequencies(rope: Rope, head_dim: int) -> tuple[Tensor, float]:
    """Radians per position of each pair, ``[head_dim / 2]`` float32, and the scale of the rotated vector.

    Raises:
        ModelUnsupported: a kind of rope this version does not know.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim  # [head_dim / 2]
    plain = 1.0 / (rope.theta**exponents)
    if rope.kind == "default":
        return plain, 1.0
    if rope.kind == "linear":
        return plain / rope.factor, 1.0
    if rope.kind == "llama3":
        return _llama3(rope, plain), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, head_dim, plain)
    raise ModelUnsupported(f"rope scaling {rope.kind!r} is not supported; use default, linear, llama3 or yarn.")


def rotations(rope: Rope, head_dim: int, positions: int) -> Tensor:
    """``[positions, 1, head_dim / 2]`` complex64: the rotation of each pair at each position."""
    radians, scale = frequencies(rope, head_dim)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), radians)
    return torch.complex(angles.cos() * scale, angles.sin() * scale).unsqueeze(1)


def _llama3(rope: Rope, plain: Tensor) -> Tensor:
    """Slow rotations are stretched by ``factor``, fast ones kept, those between are mixed."""
    wavelength = 2 * math.pi / plain
    low, high = rope.low_frequency_factor, rope.high_frequency_factor
    kept = ((rope.original_context / wavelength - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - kept) * plain / rope.factor + kept * plain


def _yarn(rope: Rope, head_dim: int, plain: Tensor) -> tuple[Tensor, float]:
    """As llama3, but the mixture is linear in the dimension, between two numbers of turns over the original context."""

    def dimension(turns: float) -> float:
        return head_dim * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = max(math.floor(dimension(rope.beta_fast)), 0)
    high = min(math.ceil(dimension(rope.beta_slow)), head_dim - 1)
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    kept = 1 - ramp.clamp(0.0, 1.0)
    scale = rope.attention_factor
    if scale is None:
        scale = 0.1 * math.log(rope.factor) + 1.0 if rope.factor > 1.0 else 1.0
    return plain / rope.factor * (1 - kept) + plain * kept, scale
