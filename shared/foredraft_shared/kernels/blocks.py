"""Weights in blocks of 32 inputs, as ``blocks.h`` reads them: 4 bits where a weight has no more, 8 bits otherwise.

The weights of a GGUF in Q4_0 or Q4_1 come out of the file as floats, but there are only 16 of them in a block, evenly apart. So
they are found again, and no more than a float16's rounding is lost by holding them in 4 bits. Everything else is rounded to 8
bits around zero with a scale for each block, which is what Q8_0 is, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .library import Kind

__all__ = ["Packed", "pack"]

_BLOCK = 32
_PANEL = 64
_Floats = NDArray[np.float32]
_SLICE = 4096  # rows packed at a time: bounds the memory beside the weight


@dataclass(frozen=True, slots=True)
class Packed:
    kind: Kind
    panels: NDArray[np.uint8]  # [panels, blocks, bytes of a panel's block]


def pack(weight: _Floats) -> Packed:
    """``weight`` [out, in], both of any size: filled up with zeros."""
    outputs, inputs = weight.shape
    filled = np.zeros((outputs + -outputs % _PANEL, inputs + -inputs % _BLOCK), np.float32)
    filled[:outputs, :inputs] = weight
    slices = [_blocks(part) for part in np.split(filled, range(_SLICE, len(filled), _SLICE))]
    four: list[NDArray[np.uint8]] = []
    for part in slices:
        found = _four_bits(part)
        if found is None:
            return Packed(Kind.BLOCKS_8, np.concatenate([_eight_bits(part) for part in slices]))
        four.append(found)
    return Packed(Kind.BLOCKS_4, np.concatenate(four))


def _blocks(rows: _Floats) -> _Floats:
    return rows.reshape(len(rows), -1, _BLOCK)


def _eight_bits(blocks: _Floats) -> NDArray[np.uint8]:
    scale = (np.abs(blocks).max(-1) / np.float32(127)).astype(np.float16)
    numbers = np.rint(blocks / _divisor(scale)).clip(-127, 127) + 128
    return _laid_out(numbers.astype(np.uint8), 8, scale)


def _four_bits(blocks: _Floats) -> NDArray[np.uint8] | None:
    """``None`` where 16 numbers are too few."""
    low, high = blocks.min(-1), blocks.max(-1)
    # Q4_1 uses both ends of its range. Of Q4_0 the number farthest from zero is -8 scales.
    farthest = np.where(-low > high, low, high)
    for scale, least in (
        ((high - low) / np.float32(15), low),
        (np.abs(farthest) / np.float32(8), np.where(farthest < 0, farthest, farthest * np.float32(-7 / 8))),
    ):
        step, smallest = scale.astype(np.float16), least.astype(np.float16)
        divisor, offset = _divisor(step), smallest.astype(np.float32)[..., None]
        numbers = np.rint((blocks - offset) / divisor)
        exact = np.abs(numbers * divisor + offset - blocks).max(-1) <= 0.01 * np.abs(step.astype(np.float32)) + 1e-12
        if (exact & (numbers.min(-1) >= 0) & (numbers.max(-1) <= 15)).all():
            return _laid_out(numbers.astype(np.uint8), 4, step, smallest)
    return None


def _divisor(scale: NDArray[np.float16]) -> _Floats:
    wide = scale.astype(np.float32)
    return np.where(wide > 0, wide, np.float32(1))[..., None]


def _laid_out(numbers: NDArray[np.uint8], bits: int, *scales: NDArray[np.float16]) -> NDArray[np.uint8]:
    """[rows, blocks, 32] and [rows, blocks] each -> [panels, blocks, bytes]."""
    rows, blocks, _ = numbers.shape
    if bits == 4:
        numbers = numbers[..., : _BLOCK // 2] | numbers[..., _BLOCK // 2 :] << np.uint8(4)
    steps = numbers.reshape(rows // _PANEL, _PANEL, blocks, -1, 4).transpose(0, 2, 3, 1, 4)
    parts = [
        np.ascontiguousarray(scale.reshape(-1, _PANEL, blocks).transpose(0, 2, 1)).view(np.uint8) for scale in scales
    ]
    return np.concatenate([*parts, steps.reshape(len(steps), blocks, -1)], axis=-1)
