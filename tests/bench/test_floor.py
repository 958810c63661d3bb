"""Passes beside the time it takes to read their weights, with a model of random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_sets import kernels_of

from foredraft_bench import floor
from foredraft_bench.engine import engine
from foredraft_bench.floor import RandomModel, compiled_sets, measure_floor, product_weights
from foredraft_cloud import decoder
from foredraft_cloud.compiled import NativeTransformer
from foredraft_cloud.decoder import DecoderTarget, LoadedModel, load_target
from foredraft_shared.errors import UsageError
from foredraft_shared.kernels import library as kernel_library
from foredraft_shared.kernels.library import library

SETS = ("amx", "avx512", "avx2")
TINY = replace(
    RandomModel().config, layers=2, hidden=96, heads=3, kv_heads=1, head_dim=32, feed_forward=160, vocabulary=320
)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "_READ_BYTES", 2**20)
    monkeypatch.setattr(floor, "_QWEN2", TINY)


def test_random_weights_are_a_whole_model_and_are_counted() -> None:
    model = RandomModel(TINY)
    matrices = [weight for weight in map(model.weights.__getitem__, model.weights) if weight.ndim == 2]
    assert product_weights(TINY) == sum(weight.size for weight in matrices)
    untied = RandomModel(replace(TINY, tied=False)).weights
    assert untied["head.weight"].shape == (320, 96)
    assert len(untied) == len(list(untied)) == len(model.weights) + 1
    assert 1.5e9 < product_weights(replace(TINY, layers=28, hidden=1536, heads=12, kv_heads=2, head_dim=128,
                                           feed_forward=8960, vocabulary=151936)) < 1.6e9  # fmt: skip


def test_every_arithmetic_and_number_of_rows_has_its_ratios() -> None:
    threads = torch.get_num_threads()
    timed = measure_floor(RandomModel(TINY), threads=1, rows=(1, 3), cached=20, turns=2)
    torch.set_num_threads(threads)
    by = compiled_sets() or ["torch"]
    assert [(each.kernels, each.dtype, each.rows) for each in timed] == [
        (kernels, dtype, rows) for kernels in by for dtype in ("bfloat16", "w8a8") for rows in (1, 3)
    ]
    assert [each.of_bfloat16 for each in timed[:2]] == [1.0, 1.0]
    assert timed[0].floor_ms == pytest.approx(2 * timed[2].floor_ms)
    for each in timed:
        assert each.over_floor == pytest.approx(each.median_ms / each.floor_ms)
        assert each.floor_ms * each.read_gib_per_s * 2**30 / 1e3 == pytest.approx(
            product_weights(TINY) * (2 if each.dtype == "bfloat16" else 1)
        )


@pytest.mark.skipif(library() is None, reason="no compiled kernels on this machine")
def test_passes_in_torch_are_timed_beside_compiled_ones() -> None:
    threads = torch.get_num_threads()
    timed = measure_floor(
        RandomModel(TINY), threads=1, rows=(1,), dtypes=("bfloat16",), cached=20, turns=2, in_torch=True
    )
    torch.set_num_threads(threads)
    assert [each.kernels for each in timed] == [*compiled_sets(), "torch"]
    assert timed[0].of_torch == pytest.approx(timed[0].median_ms / timed[-1].median_ms)
    assert timed[-1].of_torch == 1.0


@pytest.mark.skipif(library() is None, reason="no compiled kernels on this machine")
def test_every_set_of_instructions_for_passes_is_timed_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[str, bool | str]] = []

    def load(model: LoadedModel, *, dtype: str, compiled: bool | str, **more: Any) -> DecoderTarget:
        loaded.append((dtype, compiled))
        return load_target(model, dtype=dtype, compiled=bool(compiled), **more)  # the name may be of another processor

    monkeypatch.setattr(decoder, "load_target", load)
    monkeypatch.setattr(floor, "compiled_sets", lambda: list(SETS))
    threads = torch.get_num_threads()
    timed = measure_floor(RandomModel(TINY), threads=1, rows=(1,), cached=20, turns=1)
    torch.set_num_threads(threads)
    assert loaded == [(dtype, name) for name in SETS for dtype in ("bfloat16", "w8a8")]
    assert [(each.kernels, each.dtype) for each in timed] == [(name, dtype) for dtype, name in loaded]
    assert [each.of_bfloat16 for each in timed if each.dtype == "bfloat16"] == [1.0] * len(SETS)


def test_the_sets_for_passes_are_those_that_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_library, "possible", lambda: ("amx", "avx512", "avx2"))
    monkeypatch.setattr(kernel_library, "library", lambda name: None if name == "amx" else object())
    assert compiled_sets() == ["avx512", "avx2"]


def test_only_the_best_sets_are_timed_where_the_memory_holds_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foredraft_cloud.memory.memory_bytes", lambda: 5 * 3 * product_weights(TINY))
    monkeypatch.setattr(floor, "compiled_sets", lambda: ["avx512", "avx2", "generic"])
    loaded: list[bool | str] = []

    def load(model: LoadedModel, *, compiled: bool | str, **more: Any) -> DecoderTarget:
        loaded.append(compiled)
        return load_target(model, compiled=False, **more)

    monkeypatch.setattr(decoder, "load_target", load)
    threads = torch.get_num_threads()
    measure_floor(RandomModel(TINY), threads=1, rows=(1,), cached=20, turns=1)
    torch.set_num_threads(threads)
    assert loaded == ["avx512", "avx512", "avx2", "avx2"]


@pytest.mark.parametrize("name", SETS)
def test_a_target_is_loaded_with_the_set_that_is_named(name: str) -> None:
    kernels = kernels_of(name)
    target = load_target(RandomModel(TINY), compiled=name, context=32, slots=1)
    assert isinstance(target.transformer, NativeTransformer)
    assert target.transformer._kernels is kernels


def test_the_command_writes_them_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    threads = torch.get_num_threads()
    file = tmp_path / "floor.json"
    engine(model=floor.RANDOM, threads=[1], cached=16, turns=1, floor=True, json_file=file)
    torch.set_num_threads(threads)
    told = json.loads(file.read_text())
    by = compiled_sets() or ["torch"]
    assert (told["model"], len(told["passes"])) == (floor.RANDOM, 8 * len(by))
    assert {each["kernels"] for each in told["passes"]} == set(by)
    said = capsys.readouterr().out
    assert "over the floor" in said
    assert all(name in said for name in by)


def test_more_tokens_than_the_context_holds_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--cached 60 and the 16 tokens that the passes add do not fit .* at most 48"):
        measure_floor(RandomModel(replace(TINY, context=64)), cached=60)
