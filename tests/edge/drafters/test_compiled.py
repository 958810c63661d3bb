"""Drafts in the compiled kernels: the mathematics of transformers, up to the rounding of weights and rows to a few bits."""

from __future__ import annotations

import ctypes
import weakref
from collections import ChainMap
from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from draft_models import TEXT, VARIANTS, by_steps, expected
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from foredraft_edge.drafters.compiled import CompiledDrafter, pack_draft
from foredraft_edge.drafters.kept import DraftWeights, first_layers
from foredraft_shared.errors import ModelDamaged
from foredraft_shared.kernels import library as c
from foredraft_shared.kernels.blocks import pack
from foredraft_shared.kernels.library import Kind
from foredraft_shared.models import open_model

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    found = c.library()
    if found is None:
        pytest.skip("no compiled kernels on this machine")
    return found


def product(kernels: ctypes.CDLL, weight: Floats, rows: Floats, bias: Floats | None = None) -> tuple[Kind, Floats]:
    """[rows, in] by the packed ``weight`` [out, in] -> [rows, out]."""
    packed = pack(weight)
    memory = np.empty(packed.panels.nbytes + 64, np.uint8)
    first = -memory.ctypes.data % 64
    panels = memory[first : first + packed.panels.nbytes]
    panels[:] = packed.panels.ravel()
    address = None if bias is None else bias.ctypes.data
    layer = c.Product(packed.kind, panels.ctypes.data, None, None, address, weight.shape[1], weight.shape[0])
    rows, out = np.ascontiguousarray(rows, np.float32), np.empty((len(rows), len(weight)), np.float32)
    kernels.foredraft_product(layer, None, 0.0, rows.ctypes.data, len(rows), out.ctypes.data, 1)
    return packed.kind, out


@pytest.mark.parametrize(("name", "kind"), [("Q4_0", Kind.BLOCKS_4), ("Q4_1", Kind.BLOCKS_4), ("Q8_0", Kind.BLOCKS_8)])
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 32), (5, 96), (200, 256)])
def test_weights_of_a_gguf_are_held_as_they_are(
    name: str, kind: Kind, outputs: int, inputs: int, kernels: ctypes.CDLL
) -> None:
    drawn = np.random.default_rng(outputs).normal(size=(outputs, inputs)).astype(np.float32) * 0.05
    drawn[0] = 0.0
    drawn[-1] = np.abs(drawn[-1])
    form = GGMLQuantizationType[name]
    weight = dequantize(quantize(drawn, form), form).astype(np.float32)
    found, back = product(kernels, weight, np.eye(inputs, dtype=np.float32))  # one number a row: rounded to itself
    assert found == kind
    smallest_rounded = np.abs(weight).max() * 2.0**-11 if name == "Q4_0" else 0.0  # 7 scales need not be a float16
    np.testing.assert_allclose(back.T, weight, rtol=2e-6, atol=1e-6 + smallest_rounded)


@pytest.mark.parametrize("four_bits", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 64), (80, 33), (7, 130), (5000, 96)])
def test_a_product_is_as_near_as_eight_bits_allow_and_company_changes_no_bit(
    outputs: int, inputs: int, biased: bool, four_bits: bool, kernels: ctypes.CDLL
) -> None:
    random = np.random.default_rng(outputs)
    weight = random.normal(size=(outputs, inputs)).astype(np.float32)
    if four_bits:
        weight = random.integers(0, 16, (outputs, inputs)).astype(np.float32) - 5
        weight[:, ::32], weight[:, 1::32] = -5, 10
    rows = random.normal(size=(9, inputs)).astype(np.float32) * np.logspace(-3, 3, 9, dtype=np.float32)[:, None]
    rows[4] = 0.0
    bias = random.normal(size=outputs).astype(np.float32) if biased else None
    kind, found = product(kernels, weight, rows, bias)
    if inputs % 32 == 0:
        assert kind == (Kind.BLOCKS_4 if four_bits else Kind.BLOCKS_8)
    exact = rows.astype(np.float64) @ weight.T.astype(np.float64)
    error = np.linalg.norm(found - (0.0 if bias is None else bias) - exact, axis=1)
    assert (
        error <= 0.012 * np.linalg.norm(rows, axis=1) * np.linalg.norm(weight) + 1e-6 * (1 + biased * outputs)
    ).all()
    for count in (1, 2, 3, 4, 5, 6, 7):
        np.testing.assert_array_equal(product(kernels, weight, rows[:count], bias)[1], found[:count])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_says_nearly_what_transformers_says(variant: str, tmp_path: Path, kernels: ctypes.CDLL) -> None:
    folder = checkpoints.write_hugging_face(tmp_path / "model", layers=3, **VARIANTS[variant])
    pack_draft(first_layers(open_model(folder)), tmp_path / "packed.safetensors")
    found, wanted = by_steps(CompiledDrafter(kernels, tmp_path / "packed.safetensors", chunk=7)), expected(folder)[19:]
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.998


def test_a_sub_vocabulary_head_has_the_rows_it_says(tmp_path: Path, kernels: ctypes.CDLL) -> None:
    draft = first_layers(open_model(checkpoints.write_hugging_face(tmp_path / "model")))
    ids = np.arange(3, 400, 7, dtype=np.int32)

    def drafter(given: DraftWeights, name: str) -> CompiledDrafter:
        pack_draft(given, tmp_path / name)
        return CompiledDrafter(kernels, tmp_path / name)

    part = {"head.weight": draft.weights["head.weight"][ids], "head.tokens": ids}
    some = drafter(replace(draft, weights=ChainMap(part, draft.weights)), "some")  # type: ignore[arg-type]
    whole = drafter(draft, "whole")
    for each in (some, whole):
        each.begin(TEXT)
    np.testing.assert_array_equal(some.logits(), whole.logits()[ids])
    with pytest.raises(ModelDamaged, match="ascending"):
        drafter(replace(draft, weights=ChainMap(part | {"head.tokens": ids[:5]}, draft.weights)), "bad")  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "some", "whole"]


def test_a_closed_draft_keeps_no_weights(tmp_path: Path, kernels: ctypes.CDLL) -> None:
    pack_draft(first_layers(open_model(checkpoints.write_hugging_face(tmp_path / "model"))), tmp_path / "packed")
    drafter = CompiledDrafter(kernels, tmp_path / "packed")
    weights, cache = weakref.ref(drafter._norm.base), weakref.ref(drafter._arena)
    assert weights() is drafter._turns.base is drafter._kept[-1].base is not None
    drafter.close()
    assert weights() is cache() is None
    drafter.close()  # may be called twice


def test_threads_change_nothing(tmp_path: Path, kernels: ctypes.CDLL) -> None:
    pack_draft(first_layers(open_model(checkpoints.write_hugging_face(tmp_path / "model"))), tmp_path / "packed")
    one, two = (by_steps(CompiledDrafter(kernels, tmp_path / "packed", threads=threads)) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
