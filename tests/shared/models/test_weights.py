"""Weights come out the same whatever file they lay in, and damaged files are told from whole ones."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from foredraft_shared.errors import ModelDamaged, ModelNotFound, ModelUnsupported
from foredraft_shared.models import Model, open_model


def assert_one_line(error: pytest.ExceptionInfo[Exception]) -> None:
    text = str(error.value)
    assert text
    assert "\n" not in text


class TestSafetensors:
    def test_every_tensor_has_our_name_and_its_values(self, tiny_folder: Path) -> None:
        weights = open_model(tiny_folder).weights
        stored = load_file(tiny_folder / "model.safetensors")
        assert len(weights) == len(stored)
        np.testing.assert_array_equal(weights["embedding.weight"], stored["model.embed_tokens.weight"])
        np.testing.assert_array_equal(weights["head.weight"], stored["lm_head.weight"])
        np.testing.assert_array_equal(
            weights["layers.1.mlp_norm.weight"], stored["model.layers.1.post_attention_layernorm.weight"]
        )
        np.testing.assert_array_equal(
            weights["layers.0.attn.k.weight"], stored["model.layers.0.self_attn.k_proj.weight"]
        )

    def test_arrays_belong_to_the_caller(self, tiny_folder: Path) -> None:
        weights = open_model(tiny_folder).weights
        mine = weights["norm.weight"]
        mine[:] = 0
        assert mine.dtype == np.float32
        assert weights["norm.weight"].all()

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision_becomes_float32(self, tmp_path: Path, dtype: checkpoints.Dtype) -> None:
        whole = open_model(checkpoints.write_hugging_face(tmp_path / "whole")).weights
        half = open_model(checkpoints.write_hugging_face(tmp_path / "half", dtype=dtype)).weights
        assert half.quantisation == {"float16": "F16", "bfloat16": "BF16"}[dtype]
        for name, values in half.items():
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, whole[name], rtol=2**-7, atol=1e-6)

    def test_shards_are_one_model(self, tmp_path: Path) -> None:
        whole = open_model(checkpoints.write_hugging_face(tmp_path / "whole")).weights
        sharded = open_model(checkpoints.write_hugging_face(tmp_path / "sharded", shards=3)).weights
        assert set(whole) == set(sharded)
        for name, values in sharded.items():
            np.testing.assert_array_equal(values, whole[name])

    def test_a_tied_head_is_absent(self, tmp_path: Path) -> None:
        weights = open_model(checkpoints.write_hugging_face(tmp_path, tied=True)).weights
        assert "head.weight" not in weights

    def test_truncated(self, tmp_path: Path) -> None:
        folder = checkpoints.write_hugging_face(tmp_path)
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1000])
        with pytest.raises(ModelDamaged, match="fetch it again") as error:
            _ = open_model(folder).weights
        assert_one_line(error)

    def test_a_missing_shard(self, tmp_path: Path) -> None:
        folder = checkpoints.write_hugging_face(tmp_path, shards=2)
        (folder / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(ModelDamaged, match="model-00002-of-00002"):
            _ = open_model(folder).weights

    def test_a_missing_tensor(self, tmp_path: Path) -> None:
        folder = checkpoints.write_hugging_face(tmp_path)
        tensors = load_file(folder / "model.safetensors")
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(ModelDamaged, match=r"layers\.1\.mlp\.up\.weight"):
            _ = open_model(folder).weights

    def test_a_wrong_shape(self, tmp_path: Path) -> None:
        folder = checkpoints.write_hugging_face(tmp_path, overrides={"intermediate_size": 128})
        with pytest.raises(ModelDamaged, match=r"has shape \[.*its configuration says") as error:
            _ = open_model(folder).weights
        assert_one_line(error)

    def test_fewer_layers_than_the_file_has(self, tmp_path: Path) -> None:
        folder = checkpoints.write_hugging_face(tmp_path, layers=3, overrides={"num_hidden_layers": 2})
        weights = open_model(folder).weights
        assert "layers.1.attn.q.weight" in weights
        assert "layers.2.attn.q.weight" not in weights

    def test_biases_that_the_configuration_promises(self, tmp_path: Path) -> None:
        folder = checkpoints.write_hugging_face(tmp_path, overrides={"attention_bias": True})
        with pytest.raises(ModelDamaged, match=r"attn\.q\.bias"):
            _ = open_model(folder).weights

    def test_pickles_are_never_read(self, tmp_path: Path) -> None:
        folder = checkpoints.write_hugging_face(tmp_path)
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(ModelUnsupported, match="safetensors"):
            _ = open_model(folder).weights

    def test_other_element_types(self, tmp_path: Path) -> None:
        folder = checkpoints.write_hugging_face(tmp_path)
        tensors = load_file(folder / "model.safetensors")
        tensors["lm_head.weight"] = tensors["lm_head.weight"].astype(np.int8)
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(ModelUnsupported, match="I8"):
            _ = open_model(folder).weights


class TestGguf:
    def test_equals_the_checkpoint_it_was_made_from(self, tiny_folder: Path, tiny_gguf: Path) -> None:
        original, converted = open_model(tiny_folder).weights, open_model(tiny_gguf).weights
        assert set(original) == set(converted)
        for name, values in converted.items():
            assert values.flags.writeable
            np.testing.assert_array_equal(values, original[name], err_msg=name)

    @pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
    def test_quantised(self, tmp_path: Path, kind: str) -> None:
        folder = checkpoints.write_hugging_face(tmp_path / "folder", heads=2, kv_heads=1, head_dim=32, feed_forward=128)
        original = open_model(folder).weights
        converted = open_model(checkpoints.write_gguf(folder, tmp_path / "model.gguf", kind)).weights
        assert converted.quantisation == kind
        for name, values in converted.items():
            difference = np.abs(values - original[name]).mean() / np.abs(original[name]).mean()
            assert difference < (0.15 if kind.startswith("Q4") else 0.01), name

    def test_tied_when_there_is_no_output(self, tmp_path: Path) -> None:
        folder = checkpoints.write_hugging_face(tmp_path / "folder", tied=True)
        model = open_model(checkpoints.write_gguf(folder, tmp_path / "model.gguf"))
        assert model.config.tied
        assert "head.weight" not in model.weights

    @pytest.mark.parametrize("keep", [0, 3, 20, 500, 5000, -4096, -1])
    def test_truncated(self, tiny_gguf: Path, tmp_path: Path, keep: int) -> None:
        path = tmp_path / "cut.gguf"
        path.write_bytes(tiny_gguf.read_bytes()[:keep])
        with pytest.raises(ModelDamaged, match="fetch it again") as error:
            open_model(path)
        assert_one_line(error)

    def test_garbage(self, tmp_path: Path) -> None:
        path = tmp_path / "text.gguf"
        path.write_text("no model at all, but a text that is long enough to hold a header")
        with pytest.raises(ModelDamaged, match="does not begin with GGUF"):
            open_model(path)

    def test_flipped_header_bytes_never_escape(self, tiny_gguf: Path, tmp_path: Path) -> None:
        """Whatever a damaged header says, the answer is a model or a typed error, soon."""
        whole = tiny_gguf.read_bytes()
        generator = np.random.default_rng(0)
        path = tmp_path / "flipped.gguf"
        for _ in range(150):
            damaged = bytearray(whole)
            for position in generator.integers(0, 2500, size=4):
                damaged[position] = generator.integers(256)
            path.write_bytes(damaged)
            try:
                model = open_model(path)
                _ = model.weights
                _ = model.tokenizer
            except (ModelDamaged, ModelUnsupported):
                continue

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match="no such file"):
            open_model(tmp_path / "absent.gguf")


def test_the_real_model(smollm2: Model) -> None:
    weights = smollm2.weights
    assert weights.quantisation == "Q4_1"
    assert weights.parameters == 134_515_008
    assert weights.shape("layers.29.mlp.down.weight") == (576, 1536)
    assert weights["layers.29.mlp.down.weight"].shape == (576, 1536)
    assert json.dumps(smollm2.config.eos) == "[2]"
