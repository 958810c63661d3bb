"""A head of random numbers for a tiny target: of no use but to compute with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from decoder_models import tiny_model

from foredraft_cloud.calibration import fit_logistic
from foredraft_cloud.foresight import WIDTHS, Foresight
from foredraft_shared.models import Model
from foredraft_shared.models.artifacts import Artifact

__all__ = ["LAYER", "MODEL", "TOKENS", "foresight", "heads"]

LAYER = 1
MODEL = "llama"
TOKENS = np.arange(100, 300, 2)


def foresight() -> dict[str, Any]:
    """A calibration that has seen nothing."""
    nothing = np.zeros(0, np.bool_)
    return Foresight(**{name: fit_logistic(np.zeros((0, width)), nothing) for name, width in WIDTHS.items()}).facts()


def heads(kind: str = "attention", model: Model | None = None) -> Artifact:
    """For ``model``, by default the tiny one of the name :data:`MODEL`."""
    model, dice = model or tiny_model(MODEL), np.random.default_rng(5)
    hidden, feed, queries = model.config.hidden, model.config.feed_forward, model.config.heads * model.config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"norm.weight": (hidden,), "map.weight": (hidden, hidden)}
    shapes |= {f"mlp.{part}.weight": (feed, hidden) for part in ("gate", "up")}
    shapes |= {"mlp_norm.weight": (hidden,), "mlp.down.weight": (hidden, feed)}
    if kind == "attention":
        shapes |= {
            "attn_norm.weight": (hidden,),
            "attn.q.weight": (queries, hidden),
            "attn.o.weight": (hidden, queries),
        }
        optional = {"attn.q.bias": (queries,), "attn.o.bias": (hidden,), "attn.q_norm.weight": (model.config.head_dim,)}
        shapes |= {part: shape for part, shape in optional.items() if f"layers.{LAYER}.{part}" in model.weights}
    tensors: dict[str, Any] = {
        f"exits.{LAYER}.{part}": dice.normal(0, 0.2, shape).astype(np.float32) for part, shape in shapes.items()
    }
    tensors["head.tokens"] = TOKENS.astype(np.int32)
    facts = {"exits": {str(LAYER): {"foresight": foresight()}}}
    return Artifact(Path("exits.safetensors"), "exits", "tiny", "", facts, tensors)
