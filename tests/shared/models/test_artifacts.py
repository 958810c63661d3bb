"""Artifacts: what comes back is what was stored, and only its own target takes it."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import numpy as np
import pytest

from foredraft_shared.errors import ModelDamaged, UsageError, VocabularyMismatch
from foredraft_shared.kernels.blocks import pack
from foredraft_shared.kernels.library import Kind
from foredraft_shared.models import Model, open_model
from foredraft_shared.models.artifacts import (
    PROMPTS,
    artifact_kind,
    load_artifact,
    prompt_hashes,
    prompts_tensor,
    save_artifact,
    shipped,
    target_fingerprint,
)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return open_model(checkpoints.write_hugging_face(tmp_path / "target", "qwen2", layers=2))


def test_matrices_come_back_within_half_a_step_of_int8(model: Model, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(6, 40)).astype(np.float32) * np.float32(0.3)
    tensors = {
        "layers.0.attn.q.weight": matrix,
        "norm.weight": np.linspace(0.5, 2.0, 40, dtype=np.float32),
        "head.tokens": np.array([1, 5, 7], np.int64),
    }
    save_artifact(tmp_path / "draft.safetensors", "draft", model, tensors, {"alpha_greedy": 0.5})
    artifact = load_artifact(tmp_path / "draft.safetensors", "draft")
    artifact.check(model)
    assert artifact.facts == {"alpha_greedy": 0.5}
    assert sorted(artifact.tensors) == sorted(tensors)
    step = np.abs(matrix).max(axis=1, keepdims=True) / 127
    assert (np.abs(artifact.tensors["layers.0.attn.q.weight"] - matrix) <= 0.51 * step).all()
    np.testing.assert_allclose(artifact.tensors["norm.weight"], tensors["norm.weight"], rtol=1e-3)
    assert artifact.tensors["head.tokens"].tolist() == [1, 5, 7]


def test_a_matrix_in_four_bits_is_one_for_the_kernels_too(model: Model, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    tensors = {
        name: generator.normal(size=(6, 64)).astype(np.float32) for name in ("head.weight", "layers.0.attn.q.weight")
    }
    narrow = generator.normal(size=(6, 40)).astype(np.float32)
    path = tmp_path / "draft.safetensors"
    save_artifact(path, "draft", model, tensors | {"narrow": narrow}, {}, four_bits=("head.weight", "narrow"))
    found = load_artifact(path, "draft").tensors
    blocks = tensors["head.weight"].reshape(6, 2, 32)
    step = (blocks.max(-1) - blocks.min(-1)) / 15
    assert (np.abs(found["head.weight"].reshape(6, 2, 32) - blocks) <= 0.51 * step[..., None]).all()
    assert np.abs(found["narrow"] - narrow).max() < 0.02, "40 columns are no blocks of 32: 8 bits"
    assert pack(found["head.weight"]).kind == Kind.BLOCKS_4
    assert pack(found["layers.0.attn.q.weight"]).kind == Kind.BLOCKS_8


def test_another_target_is_refused_by_name(model: Model, tmp_path: Path) -> None:
    save_artifact(tmp_path / "draft.safetensors", "draft", model, {"norm.weight": np.ones(4, np.float32)}, {})
    other = open_model(checkpoints.write_hugging_face(tmp_path / "other", "qwen2", layers=2, seed=9))
    with pytest.raises(VocabularyMismatch, match=r"was trained for target .* not for other"):
        load_artifact(tmp_path / "draft.safetensors", "draft").check(other)


def test_the_same_weights_elsewhere_are_the_same_target(model: Model, tmp_path: Path) -> None:
    copy = open_model(checkpoints.write_hugging_face(tmp_path / "copy", "qwen2", layers=2))
    assert target_fingerprint(copy) == target_fingerprint(model)


def test_the_wrong_kind_and_a_truncated_file_are_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "draft.safetensors"
    save_artifact(path, "draft", model, {"norm.weight": np.ones(64, np.float32)}, {})
    with pytest.raises(ModelDamaged, match="holds draft where exits"):
        load_artifact(path, "exits")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelDamaged, match=r"draft\.safetensors"):
        load_artifact(path, "draft")
    (tmp_path / "text").write_text("not tensors")
    with pytest.raises(ModelDamaged, match="no artifact of foredraft"):
        load_artifact(tmp_path / "text", "draft")


def test_a_file_that_cannot_be_written_is_named(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="name another file"):
        save_artifact(tmp_path / "file" / "draft.safetensors", "draft", model, {"norm": np.zeros(4)}, {})


def test_nothing_is_shipped_for_a_model_nobody_trained_for(model: Model) -> None:
    assert shipped(model, "draft") is None


def test_the_prompts_it_was_trained_on_come_back(model: Model, tmp_path: Path) -> None:
    path, hashes = tmp_path / "draft.safetensors", {0, 7, 2**31, 2**63 + 5, 2**64 - 1}
    save_artifact(path, "draft", model, {PROMPTS: prompts_tensor([*hashes, 7])}, {})
    assert artifact_kind(path) == "draft"
    assert prompt_hashes(load_artifact(path, "draft")) == hashes
    save_artifact(path, "draft", model, {"norm.weight": np.ones(4, np.float32)}, {})
    assert prompt_hashes(load_artifact(path, "draft")) == set()
