"""W8A8: linear layers that multiply integers, int8 weights by activations of eight bits.

A weight has one scale for each output, an activation one for each *row*, so that rows never touch each other. The products are
summed as integers, which is exact in any order: a row's result cannot depend on how many rows come with it, in whatever order a
kernel adds up. (What is not: the float operations before and after, which are element by element; and a kernel that saturates.
So it is tried out, see :func:`integer_product`.)

Kernels, best first:

* oneDNN's, which wants activations as u8. They are shifted by 128 and the kernel takes the shift back (a zero point, whose
  part is precomputed with the weight). VNNI and AMX instructions add up in 32 bits. Those of AVX2 add pairs in 16 and saturate;
  where that kernel is used, it fails the trial. (With s8 activations oneDNN takes its reference kernel on processors
  without AMX, 500 times slower; ``torch._int_mm`` is the same one.)
* products of float32: a sum of at most 1,024 products of numbers up to 127 is below 2**24, and exact in float32. As fast as
  float32, for four times the memory, and the same bits as the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor

from .linear import Linear, pack

__all__ = ["KERNELS", "IntegerProduct", "Kernel", "integer_product", "is_exact", "pack_quantised", "quantise"]

IntegerProduct: TypeAlias = Callable[[Tensor], Tensor]
"""[rows, in] int8 -> [rows, out] float32: the exact sums, rounded once to float32, times the scale of each output."""

Kernel: TypeAlias = Callable[[Tensor, Tensor], IntegerProduct]
"""Packs a weight [out, in] int8, |w| <= 127, with its scales [out] float32."""

_MOST = 127.0
_EXACT_TERMS = 1024  # 1024 * 127 * 127 < 2**24
_SHIFT = 128


def in_onednn(weight: Tensor, scale: Tensor) -> IntegerProduct:
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    product = torch.ops.onednn.qlinear_pointwise.default
    none = torch.zeros(len(weight), dtype=torch.int32)

    def multiply(rows: Tensor) -> Tensor:
        shifted = rows.view(torch.uint8) ^ _SHIFT
        result: Tensor = product(shifted, 1.0, _SHIFT, packed, scale, none, None, 1.0, 0, torch.float32, "none", (), "")
        return result

    return multiply


def in_float32(weight: Tensor, scale: Tensor) -> IntegerProduct:
    parts = [pack(part, None, torch.float32) for part in weight.float().split(_EXACT_TERMS, 1)]

    def multiply(rows: Tensor) -> Tensor:
        terms = zip(rows.float().split(_EXACT_TERMS, 1), parts, strict=True)
        sums = [part(some.contiguous()) for some, part in terms]
        if len(sums) == 1:
            return sums[0].mul_(scale)
        return torch.stack([each.to(torch.int32) for each in sums]).sum(0, dtype=torch.int32).float().mul_(scale)

    return multiply


KERNELS: tuple[Kernel, ...] = (in_onednn, in_float32)


def pack_quantised(weight: Tensor, bias: Tensor | None) -> Linear:
    """The linear layer of ``weight`` [out, in] and ``bias`` [out]: [rows, in] of any float -> [rows, out] float32."""
    numbers, scale = quantise(weight.float().contiguous())  # oneDNN takes it as it lies in memory
    multiply = integer_product(*weight.shape)(numbers, scale.squeeze(1))

    def linear(rows: Tensor) -> Tensor:
        numbers, scale = quantise(rows)
        result = multiply(numbers).mul_(scale)
        return result if bias is None else result.add_(bias)

    return linear


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, width] of any float -> int8 of the same shape, and their scales [rows, 1] float32."""
    scale = rows.abs().amax(1, keepdim=True).float().clamp_(min=1e-30).mul_(1.0 / _MOST)
    return (rows / scale).round_().to(torch.int8), scale


@cache
def integer_product(outputs: int, inputs: int) -> Kernel:
    """The first kernel that is exact on this processor for weights of this shape."""
    return next(kernel for kernel in KERNELS if is_exact(kernel, min(outputs, 4096), inputs))


def is_exact(kernel: Kernel, outputs: int, inputs: int, counts: Sequence[int] = (1, 4, 16, 64)) -> bool:
    """Whether the largest sums there can be come out right, and any others, for each number of rows in ``counts``."""
    generator = torch.Generator().manual_seed(2)

    def some(size: int) -> Tensor:
        numbers = torch.randint(-127, 128, (size, inputs), generator=generator, dtype=torch.int8)
        numbers[0::4] = 127
        numbers[1::4] = -127
        numbers[2::4, ::3] = 127  # sums that saturate on the way may still cancel in the end
        return numbers

    weight, rows = some(outputs), some(max(counts))
    try:
        multiply = kernel(weight, torch.ones(outputs))
        expected = in_float32(weight, torch.ones(outputs))(rows)
        return all(torch.equal(multiply(rows[:count]), expected[:count]) for count in counts)
    except (AttributeError, RuntimeError):
        return False  # not in this build of torch, or not on this processor
