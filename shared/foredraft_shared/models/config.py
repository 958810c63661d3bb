"""What a decoder looks like: the shape of any model of the supported families."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Keys further back than this are not seen (early Mistral); ``None`` for full attention."""
    bos: int | None = None
    eos: tuple[int, ...] = ()
    """Any of these ends a text."""
