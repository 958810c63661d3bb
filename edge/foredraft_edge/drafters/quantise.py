"""Matrices in blocks of 8 or 4 bits, in the layout of onnxruntime's ``MatMulNBits``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "Blocks", "blocks"]

BLOCK = 32
"""Neighbouring weights of a row that share one scale."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix ``[rows, columns]``: ``weight = (number - zero) * scale`` block by block."""

    bits: int
    data: NDArray[np.uint8]
    """``[rows, columns / BLOCK, BLOCK * bits / 8]``; of two 4-bit numbers in a byte the first is the low one."""
    scales: NDArray[np.float32]
    """``[rows, columns / BLOCK]``."""
    zeros: NDArray[np.uint8] | None
    """``[rows, ceil(columns / BLOCK * bits / 8)]``, or ``None``: the middle (128 or 8) everywhere."""


def blocks(weight: NDArray[np.float32], bits: int) -> Blocks:
    """Quantise ``weight`` ``[rows, columns]``; 8 bits around the middle, 4 bits with a zero point of their own.

    ``columns`` must be a multiple of :data:`BLOCK`.
    """
    rows, columns = weight.shape
    apart = np.ascontiguousarray(weight, np.float32).reshape(rows, columns // BLOCK, BLOCK)
    if bits == 8:
        scales = np.abs(apart).max(axis=-1) / np.float32(127)
        safe = np.where(scales > 0, scales, np.float32(1))
        numbers = np.rint(apart / safe[..., None]) + np.float32(128)
        return Blocks(8, np.clip(numbers, 0, 255).astype(np.uint8), scales.astype(np.float32), None)
    low = np.minimum(apart.min(axis=-1), 0)
    high = np.maximum(apart.max(axis=-1), 0)
    scales = ((high - low) / np.float32(15)).astype(np.float32)
    safe = np.where(scales > 0, scales, np.float32(1))
    zero = np.clip(np.rint(-low / safe), 0, 15)
    numbers = np.clip(np.rint(apart / safe[..., None]) + zero[..., None], 0, 15).astype(np.uint8)
    data = numbers[..., 0::2] | numbers[..., 1::2] << 4
    points = zero.astype(np.uint8)
    if points.shape[1] % 2:
        points = np.concatenate([points, np.full((rows, 1), 8, np.uint8)], axis=1)
    return Blocks(4, data, scales, points[:, 0::2] | points[:, 1::2] << 4)
