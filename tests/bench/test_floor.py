"""Passes beside the time it takes to read their weights, with a model of random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foredraft_bench import floor
from foredraft_bench.engine import engine
from foredraft_bench.floor import RandomModel, measure_floor, product_weights
from foredraft_shared.kernels.library import library

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
    assert [(each.dtype, each.rows) for each in timed] == [
        ("bfloat16", 1), ("bfloat16", 3), ("w8a8", 1), ("w8a8", 3)
    ]  # fmt: skip
    assert [each.of_bfloat16 for each in timed[:2]] == [1.0, 1.0]
    assert {each.kernels for each in timed} == {"torch" if library() is None else "compiled"}
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
    assert [each.kernels for each in timed] == ["compiled", "torch"]
    assert timed[0].of_torch == pytest.approx(timed[0].median_ms / timed[1].median_ms)
    assert timed[1].of_torch == 1.0


def test_the_command_writes_them_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    file = tmp_path / "floor.json"
    engine(model=floor.RANDOM, threads=[1], cached=16, turns=1, floor=True, json_file=file)
    torch.set_num_threads(threads)
    told = json.loads(file.read_text())
    assert (told["model"], len(told["passes"])) == (floor.RANDOM, 8)
    assert "over the floor" in capsys.readouterr().out
