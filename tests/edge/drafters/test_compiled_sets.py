"""One draft in the kernels of every set of instructions that this processor has: the same numbers, bit for bit.

ARM's are not among them here; they share all but a few lines (``vectors.h``) with ``generic``.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from draft_models import VARIANTS
from kernel_sets import kernels_of
from numpy.typing import NDArray

from foredraft_edge.drafters.compiled import CompiledDrafter, pack_draft
from foredraft_edge.drafters.kept import first_layers
from foredraft_shared.kernels import library as c
from foredraft_shared.kernels.blocks import pack
from foredraft_shared.models import open_model

Floats = NDArray[np.float32]
LONG = [int(token) for token in np.random.default_rng(1).integers(0, 397, 150)]  # more than two pages


@pytest.fixture(params=c.possible())
def both(request: pytest.FixtureRequest) -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """A set's kernels and those that need no special instructions."""
    return kernels_of(request.param), kernels_of("generic")


@pytest.mark.parametrize(
    "variant", [VARIANTS["llama"], VARIANTS["mistral, window"], {"family": "qwen3", "head_dim": 80}], ids=str
)
def test_a_draft_says_the_same_in_all(
    variant: dict[str, Any], both: tuple[ctypes.CDLL, ctypes.CDLL], tmp_path: Path
) -> None:
    folder = checkpoints.write_hugging_face(tmp_path / "model", **variant)
    pack_draft(first_layers(open_model(folder)), tmp_path / "packed.safetensors")
    said = []
    for each in both:
        drafter = CompiledDrafter(each, tmp_path / "packed.safetensors", chunk=60)
        drafter.begin(LONG)
        rows = [drafter.logits().copy()]
        for token in LONG[:7]:
            drafter.extend([token])
            rows.append(drafter.logits().copy())
        said.append(np.array(rows))
    assert np.ptp(said[0]) > 1.0
    np.testing.assert_array_equal(*said)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9])
def test_a_product_of_the_largest_numbers_is_the_same_in_all(
    bits: int, rows: int, both: tuple[ctypes.CDLL, ctypes.CDLL]
) -> None:
    """Where sums in 16 bits would saturate, if they could."""
    random = np.random.default_rng(rows)
    outputs, inputs = 70, 100
    weight = (15.0 if bits == 4 else 127.0) * random.integers(0, 2, (outputs, inputs)).astype(np.float32)
    weight[:3], weight[:, ::32] = weight.max(), 0.0
    if bits == 8:
        weight *= random.choice(np.float32([-1.0, 1.0]), weight.shape)
        weight[3:6, 1::2], weight[:, 1::32] = -127.0, 64.0
    given = random.choice(np.float32([-127.0, 127.0]), (rows, inputs))
    given[0] = 127.0
    packed = pack(weight)
    assert packed.kind == (c.Kind.BLOCKS_4 if bits == 4 else c.Kind.BLOCKS_8)
    memory = np.empty(packed.panels.nbytes + 64, np.uint8)
    first = -memory.ctypes.data % 64
    memory[first : first + packed.panels.nbytes] = packed.panels.ravel()
    layer = c.Product(packed.kind, memory[first:].ctypes.data, None, None, None, inputs, outputs)
    found = np.empty((2, rows, outputs), np.float32)
    for each, out in zip(both, found, strict=True):
        each.foredraft_product(layer, None, 0.0, given.ctypes.data, rows, out.ctypes.data, 1)
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], given @ weight.T, rtol=1e-5, atol=0.5)
