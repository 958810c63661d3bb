"""The ONNX graph says what transformers says, for every family; and less exactly so when quantised."""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from draft_models import TEXT, VARIANTS, by_steps, expected

from foredraft_edge.drafters.export import ExportOptions, export_onnx, exported
from foredraft_edge.drafters.kept import first_layers
from foredraft_edge.drafters.onnx import OnnxDrafter
from foredraft_edge.drafters.rope import rotary_tables
from foredraft_edge.drafters.torch import TorchDrafter
from foredraft_shared.errors import ModelDamaged, ModelUnsupported, UsageError
from foredraft_shared.messages import SamplingParams
from foredraft_shared.models import open_model
from foredraft_shared.models.config import Rope
from foredraft_shared.sampling import pick


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_matches_transformers(variant: str, tmp_path: Path) -> None:
    folder = checkpoints.write_hugging_face(tmp_path / "model", layers=3, **VARIANTS[variant])
    model = open_model(folder)
    path = export_onnx(model.config, model.weights, tmp_path / "model.onnx", ExportOptions(precision="float32"))
    wanted = expected(folder)[19:]
    np.testing.assert_allclose(by_steps(OnnxDrafter(path, chunk=7)), wanted, atol=1e-3)
    np.testing.assert_allclose(by_steps(TorchDrafter(model.config, model.weights)), wanted, atol=1e-3)


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_first_layers_are_the_shallower_model(family: str, tmp_path: Path) -> None:
    deep = open_model(checkpoints.write_hugging_face(tmp_path / "deep", family, layers=4))
    shallow = checkpoints.write_hugging_face(tmp_path / "shallow", family, layers=2)
    first = first_layers(deep, 2)
    path = export_onnx(first.config, first.weights, tmp_path / "model.onnx", ExportOptions(precision="float32"))
    wanted = expected(shallow)[19:]
    np.testing.assert_allclose(by_steps(OnnxDrafter(path)), wanted, atol=1e-3)
    np.testing.assert_allclose(by_steps(TorchDrafter(deep.config, deep.weights, layers=2)), wanted, atol=1e-3)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("precision", "closeness"), [("int8", 0.999), ("int4", 0.94)])
def test_quantised_is_close(precision: str, closeness: float, tied: bool, tmp_path: Path) -> None:
    folder = checkpoints.write_hugging_face(tmp_path / "model", "qwen2", tied=tied)
    model = open_model(folder)
    path = export_onnx(model.config, model.weights, tmp_path / "model.onnx", ExportOptions(precision=precision))
    got, wanted = by_steps(OnnxDrafter(path)), expected(folder)[19:]
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > closeness


@pytest.mark.parametrize("hidden", [64, 48])  # 48 is no multiple of a block: those matrices stay float32
def test_rows_that_are_no_whole_blocks_stay_whole(hidden: int, tmp_path: Path) -> None:
    folder = checkpoints.write_hugging_face(tmp_path / "model", hidden=hidden, feed_forward=80)
    model = open_model(folder)
    path = export_onnx(model.config, model.weights, tmp_path / "model.onnx", ExportOptions(precision="int8"))
    got, wanted = by_steps(OnnxDrafter(path)), expected(folder)[19:]
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=0.8, top_p=0.95, seed=3)], ids=str)
def test_a_sub_vocabulary_head_speaks_target_ids(precision: str, params: SamplingParams, tmp_path: Path) -> None:
    model = open_model(checkpoints.write_hugging_face(tmp_path / "model"))
    ids = np.arange(3, 400, 7, dtype=np.int32)
    weights = ChainMap({"head.weight": model.weights["head.weight"][ids], "head.tokens": ids}, model.weights)  # type: ignore[arg-type]
    options = ExportOptions(precision=precision)
    whole = OnnxDrafter(export_onnx(model.config, model.weights, tmp_path / "whole.onnx", options))
    part = OnnxDrafter(export_onnx(model.config, weights, tmp_path / "part.onnx", options))
    whole.begin(TEXT)
    part.begin(TEXT)
    logits = np.full_like(whole.logits(), -np.inf)
    logits[ids] = whole.logits()[ids]
    np.testing.assert_allclose(part.logits(), logits[ids], atol=1e-5)
    (proposal,) = part.draft(1, params)
    assert proposal.token == pick(logits, params, len(TEXT))
    torch_part = TorchDrafter(model.config, weights)
    torch_part.begin(TEXT)
    assert next(torch_part.draft(1, params)).token in ids


def test_ties_in_a_sub_vocabulary_head_go_to_the_lowest_id(tmp_path: Path) -> None:
    model = open_model(checkpoints.write_hugging_face(tmp_path / "model"))
    head = np.zeros((3, 64), np.float32)
    weights = ChainMap({"head.weight": head, "head.tokens": np.array([9, 11, 300])}, model.weights)  # type: ignore[arg-type]
    drafter = OnnxDrafter(export_onnx(model.config, weights, tmp_path / "model.onnx"))
    drafter.begin(TEXT)
    assert [proposal.token for proposal in drafter.draft(2, SamplingParams())] == [9, 9]


def test_a_draft_turns_as_its_model_says() -> None:
    rope = Rope(kind="yarn", factor=4.0, attention_factor=0.0)
    assert not rotary_tables(rope, 8, 3)[0].any()  # a strange scale, but what is asked for
    with pytest.raises(ModelUnsupported, match="'spiral'"):
        rotary_tables(Rope(kind="spiral"), 8, 3)


def test_the_export_is_kept_and_keyed(tmp_path: Path) -> None:
    folder = checkpoints.write_hugging_face(tmp_path / "model", "qwen3")
    cache = tmp_path / "cache"
    first = exported(first_layers(open_model(folder)), folder=cache)
    made = first.stat().st_ino
    assert exported(first_layers(open_model(folder)), folder=cache) == first
    assert first.stat().st_ino == made
    assert exported(first_layers(open_model(folder), 1), folder=cache) != first
    checkpoints.write_hugging_face(folder, "qwen3", seed=1)
    assert exported(first_layers(open_model(folder)), folder=cache) != first
    assert sorted(path.suffix for path in cache.iterdir()) == [".onnx"] * 3
    assert OnnxDrafter(first).vocabulary == open_model(folder).tokenizer.fingerprint


def test_large_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foredraft_edge.drafters.export._EXTERNAL_BYTES", 1000)
    folder = checkpoints.write_hugging_face(tmp_path / "model")
    model = open_model(folder)
    path = export_onnx(model.config, model.weights, tmp_path / "out" / "m.onnx", ExportOptions(precision="float32"))
    assert sorted(file.name for file in path.parent.iterdir()) == ["m.onnx", "m.onnx.data"]
    np.testing.assert_allclose(by_steps(OnnxDrafter(path)), expected(folder)[19:], atol=1e-3)


def test_bad_input_is_named(tmp_path: Path) -> None:
    model = open_model(checkpoints.write_hugging_face(tmp_path / "model", layers=2))
    for layers in (0, 3):
        with pytest.raises(UsageError, match=f"{layers} layers of 2"):
            first_layers(model, layers)
    with pytest.raises(UsageError, match="int3"):
        ExportOptions(precision="int3")
    with pytest.raises(ModelDamaged, match="norm"):
        export_onnx(model.config, {"embedding.weight": model.weights["embedding.weight"]}, tmp_path / "m.onnx")
    odd = dataclasses.replace(model.config, head_dim=24)
    with pytest.raises(ModelUnsupported, match="24"):
        export_onnx(odd, model.weights, tmp_path / "m.onnx")
    for tokens in ([5, 3], [1, 2, 3], [1, 1000]):
        part: Any = {"head.weight": np.zeros((2, 64), np.float32), "head.tokens": np.array(tokens)}
        with pytest.raises(ModelDamaged, match="ascending"):
            export_onnx(model.config, ChainMap(part, model.weights), tmp_path / "m.onnx")  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*.onnx"))
    (tmp_path / "no.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelDamaged, match="cannot be loaded"):
        OnnxDrafter(tmp_path / "no.onnx")


def test_a_file_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(checkpoints.write_hugging_face(tmp_path / "model"))
    path = export_onnx(model.config, model.weights, tmp_path / "model.onnx")
    monkeypatch.setattr("foredraft_edge.drafters.onnx.GRAPH_VERSION", 99)
    with pytest.raises(ModelUnsupported, match="another version"):
        OnnxDrafter(path)
