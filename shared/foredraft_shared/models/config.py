"""What a decoder looks like: the shape of any model of the supported families."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ModelUnsupported

__all__ = ["FAMILIES", "ModelConfig", "Rope"]

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Supported families; SmolLM2 and TinyLlama are of the Llama family."""


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding and how its frequencies are stretched."""

    theta: float = 10000.0
    kind: str = "default"
    """``default``, ``linear``, ``llama3`` or ``yarn``."""
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    """llama3 only."""
    high_frequency_factor: float = 4.0
    """llama3 only."""
    original_context: int = 8192
    """llama3 and yarn: the context before stretching."""
    beta_fast: float = 32.0
    """yarn only."""
    beta_slow: float = 1.0
    """yarn only."""
    attention_factor: float | None = None
    """yarn only: scale of cosines and sines; by default 0.1 ln(factor) + 1."""

    def frequencies(self, head_dim: int) -> tuple[np.ndarray[Any, np.dtype[np.float64]], float]:
        """Angle per token of each pair of a head (radians, ``[head_dim / 2]``), and the scale of cosines and sines.

        Source: ``modeling_rope_utils.py`` of transformers. The pairs are the first half of a head with the second. The cloud
        computes them in float32 (``foredraft_cloud.rope``), as the target's own code does.

        Raises:
            ModelUnsupported: a kind this version does not know.
        """
        pair = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
        plain: np.ndarray[Any, np.dtype[np.float64]] = self.theta**-pair
        if self.kind == "linear":
            return plain / self.factor, 1.0
        if self.kind == "llama3":
            turns = self.original_context * plain / (2 * math.pi)  # of each pair within the original context
            span = self.high_frequency_factor - self.low_frequency_factor
            smooth = np.clip((turns - self.low_frequency_factor) / span, 0.0, 1.0)
            return (1 - smooth) * plain / self.factor + smooth * plain, 1.0
        if self.kind == "yarn":
            low = max(math.floor(self._pair_turning(self.beta_fast, head_dim)), 0)
            high = min(math.ceil(self._pair_turning(self.beta_slow, head_dim)), head_dim - 1)
            ramp = np.clip((np.arange(head_dim // 2) - low) / (high - low or 0.001), 0.0, 1.0)
            scale = self.attention_factor
            if scale is None:
                scale = 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0
            return plain / self.factor * ramp + plain * (1 - ramp), scale
        if self.kind != "default":
            raise ModelUnsupported(f"rotary scaling {self.kind!r} is not known; use default, linear, llama3 or yarn.")
        return plain, 1.0

    def _pair_turning(self, turns: float, head_dim: int) -> float:
        """Which pair, as a fraction, turns this often within the original context."""
        return head_dim * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(self.theta))


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of a decoder; weights are named as :mod:`foredraft_shared.models.weights` says."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    """Rows of the embedding."""
    context: int
    rope: Rope
    norm_eps: float
    tied: bool
    """The head is the embedding."""
    attention_bias: bool = False
    """Biases on q, k and v (Qwen2), or where the checkpoint has them."""
    qk_norm: bool = False
    """RMS norm on each head's queries and keys (Qwen3)."""
    sliding_window: int | None = None
    """A query at ``i`` sees the keys ``j`` with ``i - j < sliding_window`` (early Mistral); ``None`` for all of them."""
    bos: int | None = None
    eos: tuple[int, ...] = ()
    """Any of these ends a text."""
