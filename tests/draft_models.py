"""Tiny models of every family, and what transformers and a drafter say of one text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from foredraft_edge.drafters.text import CachedText

TEXT = [int(token) for token in np.random.default_rng(0).integers(0, 397, 40)]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama"},
    "llama, tied": {"family": "llama", "tied": True},
    "llama, linear": {"family": "llama", "rope": {"rope_type": "linear", "factor": 2.0}},
    "llama, llama3": {"family": "llama", "rope": LLAMA3},
    "mistral": {"family": "mistral"},
    "mistral, window": {"family": "mistral", "overrides": {"sliding_window": 8}},
    "qwen2": {"family": "qwen2"},
    "qwen2, yarn": {"family": "qwen2", "rope": YARN},
    "qwen3": {"family": "qwen3", "tied": True},
    "qwen3, wide heads": {"family": "qwen3", "head_dim": 32},
}


def expected(folder: Path) -> np.ndarray[Any, Any]:
    """Logits ``[len(TEXT), vocabulary]`` by transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        logits: np.ndarray[Any, Any] = model(torch.tensor([TEXT])).logits[0].numpy()
    return logits


def by_steps(drafter: CachedText, first: int = 20) -> np.ndarray[Any, Any]:
    """Logits after ``first`` tokens at once, then one by one."""
    drafter.begin(TEXT[:first])
    rows = [drafter.logits().copy()]
    for token in TEXT[first:]:
        drafter.extend([token])
        rows.append(drafter.logits().copy())
    return np.array(rows)
