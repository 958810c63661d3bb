"""Configurations: both formats, both generations of transformers, every kind of rope; and what is refused, by name."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest

from foredraft_shared.errors import ModelDamaged, ModelNotFound, ModelUnsupported
from foredraft_shared.models import ModelConfig, Rope, open_model

ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "yarn, tuned": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "attention_factor": 1.3,
    },
    "yarn, DeepSeek's": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 128,
        "mscale": 0.707,
        "mscale_all_dim": 1.0,
    },
}


def config_of(folder: Path, family: str = "llama", **options: Any) -> ModelConfig:
    return open_model(checkpoints.write_hugging_face(folder, family, **options)).config


class TestBothFormats:
    def test_gguf_says_the_same_as_the_folder(self, tiny_folder: Path, tiny_gguf: Path) -> None:
        original, converted = open_model(tiny_folder).config, open_model(tiny_gguf).config
        # GGUF writes Mistral as llama, single precision numbers, and one end token only.
        expected = dataclasses.replace(
            original,
            family="llama" if original.family == "mistral" else original.family,
            norm_eps=converted.norm_eps,
            eos=original.eos[:1],
        )
        assert converted == expected
        assert math.isclose(converted.norm_eps, original.norm_eps, rel_tol=1e-6)

    @pytest.mark.parametrize("family", checkpoints.FAMILIES)
    def test_fields(self, tmp_path: Path, family: str) -> None:
        config = config_of(tmp_path, family, layers=3)
        assert (config.family, config.layers, config.hidden, config.heads, config.kv_heads) == (family, 3, 64, 4, 2)
        assert (config.head_dim, config.feed_forward, config.context) == (16, 96, 512)
        assert config.vocabulary == checkpoints.VOCABULARY + 16
        assert config.attention_bias == (family == "qwen2")
        assert config.qk_norm == (family == "qwen3")
        assert config.sliding_window is None
        assert config.eos == (checkpoints.VOCABULARY - 1, checkpoints.VOCABULARY - 3)
        assert config.rope == Rope()

    @pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES.keys())
    def test_transformers_4_and_5_write_the_same_rope(self, tmp_path: Path, rope: dict[str, Any]) -> None:
        new = config_of(tmp_path / "5", rope=rope)
        old = dict(rope)
        old["type"] = old.pop("rope_type")
        assert config_of(tmp_path / "4", transformers=4, rope=old) == new
        assert new.rope.kind == rope["rope_type"]
        assert new.rope.factor == rope["factor"]

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("family", checkpoints.FAMILIES)
    def test_what_transformers_itself_writes(self, tmp_path: Path, family: str) -> None:
        """A model saved by transformers is read with its shape and its numbers."""
        transformers = pytest.importorskip("transformers")
        settings = transformers.AutoConfig.for_model(
            family,
            num_hidden_layers=2,
            hidden_size=32,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            intermediate_size=48,
            vocab_size=99,
            max_position_embeddings=128,
        )
        theirs = transformers.AutoModelForCausalLM.from_config(settings)
        theirs.save_pretrained(tmp_path)
        ours = open_model(tmp_path)
        assert (ours.config.layers, ours.config.head_dim, ours.config.context) == (2, 16, 128)
        assert ours.weights.parameters == sum(parameter.numel() for parameter in theirs.parameters())
        state = theirs.state_dict()
        np.testing.assert_array_equal(
            ours.weights["layers.1.attn.o.weight"], state["model.layers.1.self_attn.o_proj.weight"].numpy()
        )


class TestRope:
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES.keys())
    def test_frequencies_are_those_of_transformers(self, tmp_path: Path, rope: dict[str, Any]) -> None:
        pytest.importorskip("transformers")
        from transformers import AutoConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        config = config_of(tmp_path, rope=rope)
        theirs = AutoConfig.from_pretrained(tmp_path)
        expected, expected_scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](theirs, device="cpu")
        frequencies, scale = config.rope.frequencies(config.head_dim)
        np.testing.assert_allclose(frequencies, expected.numpy(), rtol=1e-5)
        assert math.isclose(scale, expected_scale, rel_tol=1e-6)

    def test_a_kind_that_is_not_known(self) -> None:
        with pytest.raises(ModelUnsupported, match="'spiral'"):
            Rope(kind="spiral").frequencies(4)

    def test_plain(self) -> None:
        frequencies, scale = Rope(theta=100.0).frequencies(4)
        np.testing.assert_allclose(frequencies, [1.0, 0.1])
        assert scale == 1.0

    @pytest.mark.parametrize(
        "rope",
        [
            Rope(500000.0, "llama3", 8.0, 1.0, 4.0, 8192),  # Llama 3.1
            Rope(500000.0, "llama3", 32.0, 1.0, 4.0, 8192),  # Llama 3.2
            Rope(500000.0, "llama3", 4.0, 2.0, 6.0, 4096),  # nobody's
        ],
    )
    def test_llama3_is_recovered_from_the_factors_in_a_gguf(self, tmp_path: Path, rope: Rope) -> None:
        head_dim = 128
        folder = checkpoints.write_hugging_face(tmp_path / "folder", heads=1, kv_heads=1, head_dim=head_dim)
        stretched, _ = rope.frequencies(head_dim)
        plain, _ = Rope(rope.theta).frequencies(head_dim)
        tensors = {"rope_freqs.weight": (plain / stretched).astype(np.float32)}
        metadata = {"llama.rope.freq_base": rope.theta}
        file = checkpoints.write_gguf(folder, tmp_path / "model.gguf", metadata=metadata, tensors=tensors)
        found = open_model(file).config.rope
        assert found.kind == "llama3"
        np.testing.assert_allclose(found.frequencies(head_dim)[0], stretched, rtol=2e-3)

    def test_other_factors_are_refused(self, tmp_path: Path) -> None:
        folder = checkpoints.write_hugging_face(tmp_path / "folder")
        tensors = {"rope_freqs.weight": np.array([1, 5, 2, 7, 1, 3, 4, 6], np.float32)}
        file = checkpoints.write_gguf(folder, tmp_path / "model.gguf", tensors=tensors)
        with pytest.raises(ModelUnsupported, match="rope_freqs"):
            open_model(file)

    @pytest.mark.parametrize(
        ("metadata", "expected"),
        [
            ({"llama.rope.scaling.type": "none"}, Rope()),
            ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, Rope(kind="linear", factor=4.0)),
            ({"llama.rope.scale_linear": 2.0}, Rope(kind="linear", factor=2.0)),
            (
                {
                    "llama.rope.scaling.type": "yarn",
                    "llama.rope.scaling.factor": 4.0,
                    "llama.rope.scaling.original_context_length": 128,
                },
                Rope(kind="yarn", factor=4.0, original_context=128),
            ),
        ],
    )
    def test_scaling_keys_of_a_gguf(self, tmp_path: Path, metadata: dict[str, Any], expected: Rope) -> None:
        folder = checkpoints.write_hugging_face(tmp_path / "folder")
        file = checkpoints.write_gguf(folder, tmp_path / "model.gguf", metadata=metadata)
        assert open_model(file).config.rope == expected


class TestSlidingWindow:
    @pytest.mark.parametrize(
        ("family", "overrides", "expected"),
        [
            ("mistral", {"sliding_window": 64}, 64),
            ("mistral", {"sliding_window": None}, None),
            ("mistral", {"sliding_window": 4096}, None),  # longer than the context of 512: it hides nothing
            ("llama", {"sliding_window": 64}, None),
            ("qwen2", {"sliding_window": 64}, None),
            ("qwen2", {"sliding_window": 64, "use_sliding_window": False, "max_window_layers": 0}, None),
            ("qwen2", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 0}, 64),
            ("qwen3", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 2}, None),
            (
                "qwen3",
                {"sliding_window": 64, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 2},
                64,
            ),
        ],
    )
    def test_who_has_one(self, tmp_path: Path, family: str, overrides: dict[str, Any], expected: int | None) -> None:
        assert config_of(tmp_path, family, overrides=overrides).sliding_window == expected

    def test_in_some_layers_only(self, tmp_path: Path) -> None:
        overrides = {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 1}
        with pytest.raises(ModelUnsupported, match="some layers only"):
            config_of(tmp_path, "qwen2", overrides=overrides)


class TestRefused:
    @pytest.mark.parametrize(
        ("overrides", "named"),
        [
            ({"model_type": "gpt2"}, "gpt2"),
            ({"hidden_act": "gelu"}, "gelu"),
            ({"mlp_bias": True}, "mlp_bias"),
            ({"quantization_config": {"quant_method": "awq"}}, "awq"),
            ({"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
            ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ],
    )
    def test_by_name(self, tmp_path: Path, overrides: dict[str, Any], named: str) -> None:
        with pytest.raises(ModelUnsupported, match=named) as error:
            config_of(tmp_path, overrides=overrides)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("metadata", "named"),
        [
            ({"llama.expert_count": 8}, "experts"),
            ({"llama.rope.dimension_count": 8}, "part of each head"),
            ({"llama.rope.scaling.type": "longrope"}, "longrope"),
            ({"llama.attention.value_length": 32}, "different sizes"),
        ],
    )
    def test_ggufs_by_name(self, tmp_path: Path, metadata: dict[str, Any], named: str) -> None:
        folder = checkpoints.write_hugging_face(tmp_path / "folder")
        file = checkpoints.write_gguf(folder, tmp_path / "model.gguf", metadata=metadata)
        with pytest.raises(ModelUnsupported, match=named):
            open_model(file)

    @pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size", "max_position_embeddings"])
    def test_missing_keys(self, tmp_path: Path, key: str) -> None:
        path = checkpoints.write_hugging_face(tmp_path) / "config.json"
        values = json.loads(path.read_text())
        del values[key]
        path.write_text(json.dumps(values))
        with pytest.raises(ModelDamaged, match=key):
            open_model(tmp_path)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "llama", "num_hidden_layers": "many"}'])
    def test_damaged(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelDamaged):
            open_model(tmp_path)

    @pytest.mark.parametrize(
        "metadata",
        [
            {"llama.block_count": "many"},
            {"llama.attention.head_count": 0},
            {"llama.rope.freq_base": "x"},
            {"general.alignment": 0},
            {"llama.context_length": 0},
        ],
    )
    def test_damaged_ggufs(self, tmp_path: Path, metadata: dict[str, Any]) -> None:
        folder = checkpoints.write_hugging_face(tmp_path / "folder")
        file = checkpoints.write_gguf(folder, tmp_path / "model.gguf", metadata=metadata)
        with pytest.raises(ModelDamaged):
            open_model(file)

    def test_numbers_that_cannot_be(self, tmp_path: Path) -> None:
        with pytest.raises(ModelDamaged, match="cannot be"):
            config_of(tmp_path, overrides={"num_key_value_heads": 3})

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match=r"config\.json"):
            open_model(tmp_path)
