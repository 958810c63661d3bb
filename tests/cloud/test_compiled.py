"""The compiled kernels: the mathematics of the decoder in torch, and what becomes of a machine that cannot have them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import torch
from decoder_models import MODELS, reference, scores, tiny_model
from kernel_sets import kernels_of

from foredraft_cloud.attention import KEY_STEP, AttentionShape, cut
from foredraft_cloud.compiled import NativeLinear, NativeTransformer
from foredraft_cloud.decoder import DecoderTarget, load_target
from foredraft_cloud.proof import Shapes
from foredraft_cloud.quantised import pack_quantised
from foredraft_cloud.reading import Reader
from foredraft_cloud.target import Run
from foredraft_cloud.transformer import Transformer
from foredraft_shared.kernels import library as native
from foredraft_shared.kernels.memory import WeightMemory

needs_kernels = pytest.mark.skipif(native.library() is None, reason="no compiled kernels on this machine")


@pytest.fixture
def uncached() -> Iterator[None]:
    native._found.cache_clear()
    yield
    native._found.cache_clear()


@pytest.fixture(params=(*native.possible(), "generic"))
def kernels(request: pytest.FixtureRequest) -> ctypes.CDLL:
    return kernels_of(request.param)


def both(name: str, *, quantised: bool) -> Iterator[DecoderTarget]:
    """A target in torch and one in our kernels, in shapes that nobody proved."""
    model, kernels = tiny_model(name), native.library()
    assert kernels is not None
    with torch.inference_mode():
        for transformer in (
            Transformer(model.config, model.weights, torch.bfloat16, 512, quantised=quantised),
            NativeTransformer(model.config, model.weights, 512, kernels, quantised=quantised),
        ):
            shapes = Shapes((64,), AttentionShape(8, KEY_STEP))
            yield DecoderTarget(transformer, context=512, cache_bytes=2**22, shapes=shapes)


def scored(target: DecoderTarget, tokens: tuple[int, ...]) -> torch.Tensor:
    (logits,) = target.verify([Run(target.open(), tokens, len(tokens))], exits=False).step().logits
    return scores(logits).float()


@needs_kernels
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_family_in_bfloat16_is_as_near_to_float32_as_in_torch(name: str) -> None:
    tokens = torch.randint(0, 320, (1, 333), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = reference(name)(tokens).logits[0]
    in_torch, ours = (
        float((scored(target, tuple(tokens[0].tolist())) - expected).norm() / expected.norm())
        for target in both(name, quantised=False)
    )
    assert ours < 1.2 * in_torch < 0.2


@needs_kernels
def test_w8a8_is_as_near_to_float32_as_in_torch() -> None:
    tokens = tuple(torch.randint(0, 320, (200,), generator=torch.Generator().manual_seed(3)).tolist())
    with torch.no_grad():
        expected = reference("qwen3")(torch.tensor([tokens])).logits[0]
    in_torch, ours = (float((scored(target, tokens) - expected).norm()) for target in both("qwen3", quantised=True))
    assert ours < 1.2 * in_torch < 0.4 * float(expected.norm())


@pytest.mark.parametrize(("outputs", "inputs"), [(64, 64), (80, 33), (7, 130), (200, 2500)])
@pytest.mark.parametrize("biased", [False, True])
def test_an_integer_product_has_the_bits_of_the_one_in_torch(
    outputs: int, inputs: int, biased: bool, kernels: ctypes.CDLL
) -> None:
    generator = torch.Generator().manual_seed(outputs)
    weight = torch.randn(outputs, inputs, generator=generator)
    rows = torch.randn(53, inputs, generator=generator) * torch.logspace(-3, 3, 53).unsqueeze(1)
    rows[5] = 0.0
    rows[6] = 1.0
    weight[3] = -1.0  # the largest sums there can be
    bias = torch.randn(outputs, generator=generator) if biased else None
    ours = NativeLinear(kernels, WeightMemory(), weight, bias, quantised=True)
    expected = pack_quantised(weight, bias)(rows)
    for count in (*range(1, 20), 23, 32, 33, 53):
        assert torch.equal(ours(rows[:count]), expected[:count])


@pytest.mark.parametrize(("outputs", "inputs"), [(64, 64), (80, 33), (7, 130)])
def test_a_bfloat16_product_rounds_its_inputs_and_nothing_else(outputs: int, inputs: int, kernels: ctypes.CDLL) -> None:
    generator = torch.Generator().manual_seed(outputs)
    weight, rows = torch.randn(outputs, inputs, generator=generator), torch.randn(37, inputs, generator=generator)
    found = NativeLinear(kernels, WeightMemory(), weight, None, quantised=False)(rows)
    expected = rows.bfloat16().double() @ weight.bfloat16().double().T
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "quantised"),  # tiles add up bfloat16 in another order
    [(name, bits) for name in native.possible() for bits in (False, True) if (name, bits) != ("amx", False)],
)
def test_products_have_the_same_bits_in_all_sets(name: str, quantised: bool) -> None:
    sets = kernels_of(name), kernels_of("generic")
    generator = torch.Generator().manual_seed(5)
    weight, rows = torch.randn(130, 203, generator=generator), torch.randn(19, 203, generator=generator)
    found, expected = (NativeLinear(each, WeightMemory(), weight, None, quantised)(rows) for each in sets)
    assert torch.equal(found, expected)


def test_a_row_has_the_same_bits_in_every_company(kernels: ctypes.CDLL) -> None:
    generator = torch.Generator().manual_seed(4)
    weight, rows = torch.randn(130, 200, generator=generator), torch.randn(53, 200, generator=generator)
    product = NativeLinear(kernels, WeightMemory(), weight, None, quantised=False)
    alone = torch.cat([product(row.unsqueeze(0)) for row in rows])
    for count in (*range(1, 20), 31, 32, 33, 53):
        for first in (0, 53 - count):
            assert torch.equal(product(rows[first : first + count]), alone[first : first + count])


@needs_kernels
@pytest.mark.parametrize(("rows", "chosen"), [(1, [0]), (9, [0, 3, 4, 8]), (9, [])])
def test_an_exit_in_one_call_says_what_its_parts_say(rows: int, chosen: list[int]) -> None:
    model, kernels = tiny_model("qwen3"), native.library()
    assert kernels is not None
    generator = torch.Generator().manual_seed(rows)
    with torch.inference_mode():
        ours = NativeTransformer(model.config, model.weights, 512, kernels)
        target = DecoderTarget(ours, context=512, cache_bytes=2**22, shapes=Shapes((16,), AttentionShape(8, KEY_STEP)))
        width, tokens = model.config.hidden, torch.arange(100, 300, 2)
        reader = Reader(
            ours.make_layer(model.weights, 1, ours.pack_roughly),
            torch.rand(width, generator=generator),
            ours.pack_roughly(torch.randn(width, width, generator=generator)),
            ours.pack_roughly(torch.randn(len(tokens), width, generator=generator)),
            tokens,
        )
        slot = target.open()
        target.make_room(slot, rows)
        hidden = torch.randn(rows, width, generator=generator)
        turns, plan = (
            ours.rotations[:rows],
            ours.plan(cut(slot.pages, 0, rows, 0, target.attention), rows, target.attention),
        )
        before = hidden.clone()
        scores, found = ours.look(reader, 1, target.cache.rows, hidden, turns, plan, chosen)
        expected, parts = Transformer.look(ours, reader, 1, target.cache.rows, hidden, turns, plan, chosen)  # type: ignore[arg-type]
    assert torch.equal(hidden, before)
    assert torch.equal(scores, expected)
    assert len(found) == len(parts) == len(chosen)
    for mine, theirs in zip(found, parts, strict=True):
        assert mine.tokens == theirs.tokens
        assert mine.logs == pytest.approx(theirs.logs, abs=1e-4)
        assert mine.doubt == pytest.approx(theirs.doubt, abs=1e-3)


def test_without_a_compiler_passes_are_computed_in_torch(uncached: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_processor", lambda: frozenset(native._SETS["avx2"].instructions))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with structlog.testing.capture_logs() as logs:
        target = load_target(tiny_model("llama"), slots=1)
    assert type(target.transformer) is Transformer
    assert [(entry["log_level"], entry["cure"]) for entry in logs] == [("warning", "install g++")]


def test_a_compiler_that_fails_is_told_of(uncached: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] || { echo no such instruction >&2; exit 1; }\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(native, "_processor", lambda: frozenset(native._SETS["avx2"].instructions))
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("FOREDRAFT_CACHE", str(tmp_path / "cache"))
    assert native.library() is None
    lack = native.missing()
    assert lack is not None
    assert lack.reason == f"{compiler} failed: no such instruction"
    assert not list((tmp_path / "cache" / "kernels").iterdir())


def test_another_processor_needs_no_compiler(uncached: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_processor", lambda: frozenset({"rv64gc"}))
    with structlog.testing.capture_logs() as logs:
        load_target(tiny_model("llama"), slots=1)
    assert [entry["log_level"] for entry in logs] == ["info"]
    assert logs[0]["reason"].startswith("this processor has none of ")


@needs_kernels
def test_the_library_is_built_once(uncached: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FOREDRAFT_CACHE", str(tmp_path))
    assert native.library() is not None
    (built,) = (tmp_path / "kernels").iterdir()
    file = built.stat().st_ino
    native._found.cache_clear()
    assert native.library() is not None
    assert [(each, each.stat().st_ino) for each in (tmp_path / "kernels").iterdir()] == [(built, file)]
