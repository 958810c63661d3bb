"""Rotary position embeddings and their stretched variants, as tables of cosines and sines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.models.config import Rope

__all__ = ["rotary_tables"]


def rotary_tables(rope: Rope, head_dim: int, context: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines, each ``[context, head_dim / 2]``, after the rope's scaling variant.

    Raises:
        ModelUnsupported: a variant this version does not know.
    """
    frequencies, amplitude = rope.frequencies(head_dim)
    angles = np.arange(context, dtype=np.float64)[:, None] * frequencies[None, :]
    return (np.cos(angles) * amplitude).astype(np.float32), (np.sin(angles) * amplitude).astype(np.float32)
