"""Tiny random checkpoints of every family, made by transformers, as our decoder takes them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from foredraft_cloud.exit_heads import FullLogits, RunLogits
from foredraft_cloud.target import Logits
from foredraft_shared.models import Model, open_model

__all__ = ["MODELS", "reference", "scores", "tiny_model"]

SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 256}

MODELS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, {}),
    "llama-tied-biased": (
        transformers.LlamaConfig,
        {"tie_word_embeddings": True, "attention_bias": True, "num_key_value_heads": 6},
    ),
    "llama-linear": (
        transformers.LlamaConfig,
        {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0}},
    ),
    "llama-llama3": (
        transformers.LlamaConfig,
        {"rope_parameters": LLAMA3},
    ),
    "mistral": (transformers.MistralConfig, {"sliding_window": None}),
    "mistral-window": (transformers.MistralConfig, {"sliding_window": 50}),
    "qwen2": (transformers.Qwen2Config, {}),
    "qwen2-yarn": (
        transformers.Qwen2Config,
        {"rope_parameters": YARN},
    ),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 48, "tie_word_embeddings": True}),
}
"""Name: (configuration class, what differs from ``SMALL``)."""


@cache
def reference(name: str) -> Any:
    """The checkpoint in transformers, float32, eager attention."""
    kind, changes = MODELS[name]
    config = kind(**{**SMALL, **changes})
    config._attn_implementation = "eager"
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # transformers begins with norms of one and biases of zero: nothing a mistake would show in
        for key, weight in model.named_parameters():
            if "norm" in key or "bias" in key:
                weight += 0.2 * torch.randn_like(weight)
    return model.float().eval()


@cache
def tiny_model(name: str) -> Model:
    """The same checkpoint, saved by transformers and read by us."""
    folder = Path(tempfile.mkdtemp(prefix="foredraft-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    reference(name).save_pretrained(folder)
    return open_model(str(folder))


def scores(logits: Logits | None) -> torch.Tensor:
    """What stands behind a run's logits, [scored, V]."""
    assert isinstance(logits, RunLogits)
    rows = []
    for view, row in logits.rows:
        assert isinstance(view, FullLogits)
        rows.append(view.scores[row])
    return torch.stack(rows)
