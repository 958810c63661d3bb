"""A decoder's weights in the order in which they are computed with.

Three liberties are taken with the order of a checkpoint's numbers, none with the mathematics:

* query heads stand in the order (G, KV) instead of (KV, G), and so do the columns of the output projection. The queries
  of Q rows that share a key head are then Q*G neighbouring rows of one small matrix, and the attention's result is the
  output projection's input, both without a copy;
* the two halves of each query and key head are interleaved, so that a rotation is one complex product;
* q, k and v are one projection, and so are gate and up.

Sizes: E hidden, KV key/value heads, G query heads for each, D head size, F feed-forward, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelDamaged
from .config import ModelConfig

__all__ = ["LayerWeights", "arranged", "checked"]

_Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    attention_norm: _Floats  # [E]
    qkv: _Floats  # [(G*KV + KV + KV) * D, E]
    qkv_bias: _Floats | None
    query_key_norm: _Floats | None  # [G*KV + KV, D]
    output: _Floats  # [E, G*KV*D]
    output_bias: _Floats | None
    mlp_norm: _Floats  # [E]
    gate_up: _Floats  # [F + F, E]
    down: _Floats  # [E, F]


def checked(weights: Mapping[str, _Floats], name: str, *shape: int) -> _Floats:
    """The weight of that name, in one piece.

    Raises:
        ModelDamaged: it is missing, or of another shape.
    """
    try:
        weight = np.ascontiguousarray(weights[name], dtype=np.float32)
    except KeyError:
        raise ModelDamaged(f"the model has no weight {name!r}; fetch it again.") from None
    if weight.shape != shape:
        raise ModelDamaged(f"weight {name!r} has shape {list(weight.shape)}, expected {list(shape)}.")
    return weight


def arranged(config: ModelConfig, weights: Mapping[str, _Floats], index: int) -> LayerWeights:
    """Layer ``index``.

    Args:
        weights: by canonical name (:mod:`foredraft_shared.models.weights`).

    Raises:
        ModelDamaged: see :func:`checked`.
    """
    prefix = f"layers.{index}."
    hidden, feed, dim = config.hidden, config.feed_forward, config.head_dim
    widths = {"q": config.heads * dim, "k": config.kv_heads * dim, "v": config.kv_heads * dim}

    def ordered(name: str, weight: _Floats) -> _Floats:
        if name == "q":
            weight = _regrouped(weight, config)
        return weight if name == "v" else _interleaved(weight, dim)

    matrices = [
        ordered(name, checked(weights, f"{prefix}attn.{name}.weight", width, hidden)) for name, width in widths.items()
    ]
    qkv_bias = None
    if any(f"{prefix}attn.{name}.bias" in weights for name in widths):
        biases = (
            ordered(name, _bias(weights, f"{prefix}attn.{name}.bias", width, np.zeros(width, np.float32)))
            for name, width in widths.items()
        )
        qkv_bias = np.concatenate(tuple(biases))
    norms = None
    if config.qk_norm:
        query_norm, key_norm = (
            _interleaved(checked(weights, f"{prefix}attn.{name}_norm.weight", dim), dim) for name in "qk"
        )
        norms = np.concatenate([np.tile(query_norm, (config.heads, 1)), np.tile(key_norm, (config.kv_heads, 1))])
    output = checked(weights, f"{prefix}attn.o.weight", hidden, widths["q"])
    return LayerWeights(
        attention_norm=checked(weights, f"{prefix}attn_norm.weight", hidden),
        qkv=np.concatenate(matrices),
        qkv_bias=qkv_bias,
        query_key_norm=norms,
        output=np.ascontiguousarray(_regrouped(output.T, config).T),
        output_bias=_bias(weights, f"{prefix}attn.o.bias", hidden, None),
        mlp_norm=checked(weights, f"{prefix}mlp_norm.weight", hidden),
        gate_up=np.concatenate(
            [checked(weights, f"{prefix}mlp.{name}.weight", feed, hidden) for name in ("gate", "up")]
        ),
        down=checked(weights, f"{prefix}mlp.down.weight", hidden, feed),
    )


def _bias(weights: Mapping[str, _Floats], name: str, width: int, otherwise: Any) -> Any:
    return checked(weights, name, width) if name in weights else otherwise


def _regrouped(weight: _Floats, config: ModelConfig) -> _Floats:
    """Query heads from the order (KV, G) into (G, KV): [KV*G*D, ...] -> [G*KV*D, ...]."""
    heads = weight.reshape(config.kv_heads, -1, config.head_dim, *weight.shape[1:])
    return heads.swapaxes(0, 1).reshape(weight.shape)


def _interleaved(weight: _Floats, dim: int) -> _Floats:
    """Dimension i of a head beside dimension i + D/2: [heads*D, ...] -> [heads*D, ...]."""
    halves = weight.reshape(-1, 2, dim // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)
