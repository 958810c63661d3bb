"""A decoder whose every tensor can be differentiated: the same mathematics as ``transformer``, over whole texts.

Shapes: B texts of T tokens, E hidden size, H query heads, KV key/value heads, D head size. Weights keep their canonical
names (:mod:`foredraft_shared.models.weights`) and their order, so that what was trained is written down as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor

from foredraft_shared.models.config import ModelConfig

from ..rope import rotations
from ..transformer import Weights

_LONGEST = 1024
"""Text whose scores are kept whole."""

__all__ = ["LayerWeights", "Network", "layer_weights", "tensor"]

LayerWeights: TypeAlias = "Mapping[str, Tensor]"
"""Of one layer, without ``layers.{i}.``."""


def tensor(weights: Weights, name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(np.array(weights[name], np.float32)).to(device, dtype)


def layer_weights(weights: Weights, index: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    prefix = f"layers.{index}."
    names = [name for name in weights if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensor(weights, name, device, dtype) for name in names}


class Network:
    """The functions of a layer; holds no weights.

    Args:
        context: longest text, in tokens.
    """

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype, context: int) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        turns = rotations(config.rope, config.head_dim, context)[:, 0]  # [context, D/2]
        self._cosines = torch.cat([turns.real, turns.real], 1).to(device, dtype)  # [context, D]
        self.products = device.type == "cpu" and dtype == torch.bfloat16
        """Whether attention that is learnt from is made of plain products: half the time of torch's fused kernel there."""
        self._sines = torch.cat([turns.imag, turns.imag], 1).to(device, dtype)

    def layer(
        self,
        hidden: Tensor,
        weights: LayerWeights,
        rows: Tensor | None = None,
        *,
        watch: Callable[[str, Tensor], None] = lambda product, inputs: None,
    ) -> Tensor:
        """[B, T, E] -> [B, T, E]; with ``rows`` (flat indices, [M]) only these are finished: [M, E].

        Args:
            watch: is shown what goes into the products ``qkv``, ``gate_up`` and ``down``.
        """
        config = self.config
        normed = self.norm(hidden, weights["attn_norm.weight"])
        watch("qkv", normed)
        query = self._heads(normed, weights, "q", config.heads)  # [B, H, T, D]
        key = self._heads(normed, weights, "k", config.kv_heads)
        value = self._heads(normed, weights, "v", config.kv_heads)
        attended = self._attend(self._turn(query), self._turn(key), value)  # [B, T, H*D]
        if rows is not None:
            hidden, attended = hidden.flatten(0, 1)[rows], attended.flatten(0, 1)[rows]
        hidden = hidden + F.linear(attended, weights["attn.o.weight"], weights.get("attn.o.bias"))
        normed = self.norm(hidden, weights["mlp_norm.weight"])
        watch("gate_up", normed)
        gated = F.silu(F.linear(normed, weights["mlp.gate.weight"])) * F.linear(normed, weights["mlp.up.weight"])
        watch("down", gated)
        return hidden + F.linear(gated, weights["mlp.down.weight"])

    def norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(hidden, (hidden.shape[-1],), weight, self.config.norm_eps)

    def _heads(self, normed: Tensor, weights: LayerWeights, part: str, heads: int) -> Tensor:
        projected = F.linear(normed, weights[f"attn.{part}.weight"], weights.get(f"attn.{part}.bias"))
        projected = projected.unflatten(-1, (heads, -1)).transpose(1, 2)
        scale = weights.get(f"attn.{part}_norm.weight")
        return projected if scale is None else self.norm(projected, scale)

    def _turn(self, heads: Tensor) -> Tensor:
        length = heads.shape[2]
        first, second = heads.chunk(2, -1)
        return heads * self._cosines[:length] + torch.cat([-second, first], -1) * self._sines[:length]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        length, window = query.shape[2], self.config.sliding_window
        group = self.config.heads // self.config.kv_heads
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        if self.products and query.requires_grad and length <= _LONGEST:
            hidden = torch.zeros(length, length, dtype=self.dtype).masked_fill_(~self._seen(length), -math.inf)
            scores = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5 + hidden
            mixed: Tensor = scores.softmax(-1) @ value
        elif window is None or window >= length:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=self._seen(length))
        return mixed.transpose(1, 2).flatten(2)

    def _seen(self, length: int) -> Tensor:
        """[length, length]: which positions each looks at."""
        window = self.config.sliding_window
        seen = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        return seen if window is None else seen.triu(1 - window)
