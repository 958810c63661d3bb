"""Rotary position embeddings and their stretched variants, as tables of cosines and sines."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.errors import ModelUnsupported
from foredraft_shared.models.config import Rope

__all__ = ["rotary_tables"]


def rotary_tables(rope: Rope, head_dim: int, context: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines, each ``[context, head_dim / 2]``, after the rope's scaling variant."""
    order = np.arange(0, head_dim, 2, dtype=np.float64)
    frequencies = rope.theta ** (-order / head_dim)
    amplitude = 1.0
    if rope.kind == "linear":
        frequencies = frequencies / rope.factor
    elif rope.kind == "llama3":
        wavelength = 2.0 * np.pi / frequencies
        span = rope.high_frequency_factor - rope.low_frequency_factor
        smooth = np.clip((rope.original_context / wavelength - rope.low_frequency_factor) / span, 0.0, 1.0)
        frequencies = (1.0 - smooth) * frequencies / rope.factor + smooth * frequencies
    elif rope.kind == "yarn":

        def dimension(rotations: float) -> float:
            return head_dim * math.log(rope.original_context / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

        low = max(math.floor(dimension(rope.beta_fast)), 0)
        high = min(math.ceil(dimension(rope.beta_slow)), head_dim - 1)
        ramp = np.clip((np.arange(head_dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
        frequencies = frequencies / rope.factor * ramp + frequencies * (1.0 - ramp)
        amplitude = rope.attention_factor or (0.1 * math.log(rope.factor) + 1.0 if rope.factor > 1.0 else 1.0)
    elif rope.kind != "default":
        raise ModelUnsupported(f"Rotary scaling {rope.kind!r} is not known; use default, linear, llama3 or yarn.")
    angles = np.arange(context, dtype=np.float64)[:, None] * frequencies[None, :]
    return (np.cos(angles) * amplitude).astype(np.float32), (np.sin(angles) * amplitude).astype(np.float32)
