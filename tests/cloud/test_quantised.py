"""W8A8: integer sums are exact on every processor, and a kernel that saturates is found out."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from foredraft_cloud.quantised import (
    KERNELS,
    IntegerProduct,
    in_float32,
    integer_product,
    is_exact,
    pack_quantised,
    quantise,
)


def extremes(rows: int, width: int) -> Tensor:
    numbers = torch.randint(-127, 128, (rows, width), generator=torch.Generator().manual_seed(1), dtype=torch.int8)
    numbers[0], numbers[1] = 127, -127
    return numbers


@pytest.mark.parametrize("width", [1, 96, 1000, 1025, 2500])
def test_the_chosen_kernel_and_the_one_that_runs_everywhere_say_the_same_integers(width: int) -> None:
    weight, rows = extremes(40, width), extremes(9, width)
    expected = (rows.long() @ weight.long().T).float()
    for kernel in (integer_product(40, width), in_float32):
        assert torch.equal(kernel(weight, torch.ones(40))(rows), expected)


def saturating(weight: Tensor, scale: Tensor) -> IntegerProduct:
    """What vpmaddubsw does: pairs of products are added in 16 bits, with saturation."""

    def multiply(rows: Tensor) -> Tensor:
        shifted = rows.long() + 128
        pairs = (shifted.unsqueeze(1) * weight.long()).unflatten(2, (-1, 2)).sum(3).clamp(-(2**15), 2**15 - 1)
        return (pairs.sum(2) - 128 * weight.long().sum(1)).float() * scale

    return multiply


def broken(weight: Tensor, scale: Tensor) -> IntegerProduct:
    raise RuntimeError("could not create a primitive")


def test_a_kernel_that_saturates_or_does_not_run_here_is_refused() -> None:
    assert not is_exact(saturating, 64, 32)
    assert not is_exact(broken, 64, 32)
    assert is_exact(in_float32, 64, 32)
    small = torch.full((4, 32), 3, dtype=torch.int8)  # and its small sums are right: only a trial of large ones tells
    assert torch.equal(saturating(small, torch.ones(4))(small), in_float32(small, torch.ones(4))(small))


@pytest.mark.parametrize("biased", [False, True])
def test_a_quantised_layer_is_the_product_within_its_steps(biased: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    weight, rows = torch.randn(48, 200, generator=generator), torch.randn(6, 200, generator=generator)
    rows[2] *= 1000.0  # a row has its own scale
    rows[4] = 0.0
    bias = torch.randn(48, generator=generator) if biased else None
    found = pack_quantised(weight, bias)(rows)
    assert torch.equal(pack_quantised(weight.T.contiguous().T, bias)(rows), found)
    expected = torch.nn.functional.linear(rows, weight, bias)
    error = (found - expected).norm(dim=1) / expected.norm(dim=1).clamp(min=1.0)
    assert float(error.max()) < 0.02
    assert found.dtype == torch.float32


def test_a_row_is_quantised_by_itself() -> None:
    rows = torch.randn(5, 33, generator=torch.Generator().manual_seed(4)) * torch.tensor([[1e-3], [1], [50], [0], [7]])
    numbers, scale = quantise(rows)
    for row in range(5):
        alone, its_scale = quantise(rows[row : row + 1])
        assert torch.equal(alone[0], numbers[row])
        assert torch.equal(its_scale[0], scale[row])
    assert bool(((numbers * scale - rows).abs() <= scale * 0.501).all())


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_processors_without_vnni_get_a_kernel_that_is_exact_there(instructions: str) -> None:
    """oneDNN is told to do without; what it then does is what it does on such a processor."""
    program = (
        "import sys, torch\n"
        "from foredraft_cloud.quantised import integer_product, pack_quantised\n"
        "weight, rows = torch.full((64, 576), 127, dtype=torch.int8), torch.full((4, 576), 127, dtype=torch.int8)\n"
        "product = integer_product(64, 576)\n"
        "assert bool((product(weight, torch.ones(64))(rows) == 576 * 127 * 127).all())\n"
        "print(product.__name__)\n"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {kernel.__name__ for kernel in KERNELS}
