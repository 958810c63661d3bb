"""A trained draft as a GGUF file: what is read back says what the draft says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch

from foredraft_cloud.training.network import Network, layer_weights, tensor
from foredraft_shared.errors import ModelDamaged, UsageError, VocabularyMismatch
from foredraft_shared.models import Model, open_model
from foredraft_shared.models.artifacts import Artifact, load_artifact, save_artifact
from foredraft_shared.models.gguf_export import export_gguf

TEXT = torch.arange(3, 60, 3)


def draft_for(model: Model, path: Path) -> Artifact:
    """Two layers, the second trained away from the target's; the even tokens."""
    generator = np.random.default_rng(0)
    tensors = {
        name: model.weights[name] + 0.02 * generator.standard_normal(model.weights.shape(name)).astype(np.float32)
        for name in model.weights
        if name.startswith(("layers.1.", "norm."))
    }
    tokens = np.arange(0, model.config.vocabulary, 2)
    head = model.weights["embedding.weight" if model.config.tied else "head.weight"][tokens]
    save_artifact(path, "draft", model, tensors | {"head.weight": head, "head.tokens": tokens}, {"layers": 2})
    return load_artifact(path, "draft")


def logits(model: Model) -> np.ndarray:
    cpu = torch.device("cpu")
    network = Network(model.config, cpu, torch.float32, 200)
    state = tensor(model.weights, "embedding.weight", cpu)[TEXT][None]
    for index in range(model.config.layers):
        state = network.layer(state, layer_weights(model.weights, index, cpu, torch.float32))
    head = tensor(model.weights, "embedding.weight" if model.config.tied else "head.weight", cpu)
    return (network.norm(state, tensor(model.weights, "norm.weight", cpu))[0] @ head.T).numpy()


def logits_of_draft(model: Model, artifact: Artifact) -> np.ndarray:
    """The draft itself, [positions, its tokens]."""
    cpu = torch.device("cpu")
    network = Network(model.config, cpu, torch.float32, 200)
    state = tensor(model.weights, "embedding.weight", cpu)[TEXT][None]
    for index in range(2):
        weights = layer_weights(model.weights, index, cpu, torch.float32)
        for name in weights:
            if f"layers.{index}.{name}" in artifact.tensors:
                weights[name] = torch.from_numpy(artifact.tensors[f"layers.{index}.{name}"])
        state = network.layer(state, weights)
    state = network.norm(state, torch.from_numpy(artifact.tensors["norm.weight"]))[0]
    return (state @ torch.from_numpy(artifact.tensors["head.weight"]).T).numpy()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_what_is_read_back_says_what_the_draft_says(family: str, tmp_path: Path) -> None:
    folder = checkpoints.write_hugging_face(tmp_path / "target", family, layers=3)
    model = open_model(checkpoints.write_gguf(folder, tmp_path / "target.gguf"))
    artifact = draft_for(model, tmp_path / "draft.safetensors")
    back = open_model(export_gguf(model, artifact, tmp_path / "out" / "draft.gguf"))
    assert back.config == replace(model.config, layers=2, tied=False)
    assert back.tokenizer.fingerprint == model.tokenizer.fingerprint
    found, expected = logits(back), logits_of_draft(model, artifact)
    spread = expected.std()
    np.testing.assert_allclose(found[:, ::2], expected, atol=0.15 * spread)
    assert (found.argmax(1) % 2 == 0).all(), "a token that the draft cannot say is never its first choice"
    assert (found[:, ::2].argmax(1) == expected.argmax(1)).mean() > 0.8
    assert not list(tmp_path.rglob("*.partial"))


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    folder = checkpoints.write_hugging_face(tmp_path / "target", "qwen2", layers=3)
    model = open_model(folder)
    artifact = draft_for(model, tmp_path / "draft.safetensors")
    with pytest.raises(UsageError, match="is a folder"):
        export_gguf(model, artifact, tmp_path / "draft.gguf")
    file = open_model(checkpoints.write_gguf(folder, tmp_path / "target.gguf"))
    other = checkpoints.write_hugging_face(tmp_path / "other", "qwen2", layers=3, seed=9)
    with pytest.raises(VocabularyMismatch):
        export_gguf(open_model(other), artifact, tmp_path / "draft.gguf")
    artifact = draft_for(file, tmp_path / "draft.safetensors")
    with pytest.raises(ModelDamaged, match="how many layers"):
        export_gguf(file, replace(artifact, facts={}), tmp_path / "draft.gguf")
