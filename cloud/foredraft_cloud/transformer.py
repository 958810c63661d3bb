"""The decoder's arithmetic on one page: Llama, Mistral, Qwen2, Qwen3 and SmolLM2.

Shapes: R rows (one token each, of any session), E hidden size, KV key/value heads, G query heads that share one of them,
D head size, F feed-forward size, V vocabulary, L layers.

Three liberties are taken with the order of a checkpoint's numbers, none with the mathematics:

* query heads stand in the order (G, KV) instead of (KV, G), and so do the columns of the output projection. The queries
  of Q rows that share a key head are then Q*G neighbouring rows of one small matrix, and the attention's result is the
  output projection's input, both without a copy;
* the two halves of each query and key head are interleaved, so that a rotation is one complex product;
* q, k and v are one projection, and so are gate and up.

The residual stream, norms and rotations are float32 whatever the dtype of the weights. In W8A8 so is what goes into a product
and comes out of one; keys, values and what attention makes of them are bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from numpy.typing import NDArray
from torch import Tensor

from foredraft_shared.errors import ModelDamaged
from foredraft_shared.models.config import ModelConfig

from .attention import AttentionShape, Piece, Plan, attend, plan
from .linear import Linear, pack
from .quantised import pack_quantised
from .rope import rotations

__all__ = ["Layer", "Transformer"]

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Layer:
    attention_norm: Tensor  # [E] float32
    qkv: Linear  # [R, E] -> [R, (G*KV + KV + KV) * D]
    query_key_norm: Tensor | None  # [G*KV + KV, D] float32
    output: Linear  # [R, G*KV*D] -> [R, E]
    mlp_norm: Tensor  # [E] float32
    gate_up: Linear  # [R, E] -> [R, F + F]
    down: Linear  # [R, F] -> [R, E]


class Transformer:
    """Weights and the functions of rows. Knows nothing of sessions, caches or passes.

    Args:
        weights: float32 arrays by canonical name (:mod:`foredraft_shared.models.weights`).
        dtype: of the cache and of attention; of the products, too, unless they are ``quantised``.
        context: longest text, in tokens.

    Raises:
        ModelDamaged: a weight is missing or has another shape than the configuration says.
    """

    any_rows = False
    """Whether its functions are made for every number of rows; otherwise passes are padded to a few."""

    def __init__(
        self, config: ModelConfig, weights: Weights, dtype: torch.dtype, context: int, *, quantised: bool = False
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.quantised = quantised
        self.product_dtype = torch.float32 if quantised else dtype  # of what goes into a product and comes out of it
        self.group = config.heads // config.kv_heads
        self.query_width = config.heads * config.head_dim
        self.key_width = config.kv_heads * config.head_dim
        self._weights = weights
        self.rotations = rotations(config.rope, config.head_dim, context)  # [context, 1, D/2] complex64
        self.embedding = self._get("embedding.weight", config.vocabulary, config.hidden).to(dtype)  # [V, E]
        self.layers = tuple(self._layer(f"layers.{index}.") for index in range(config.layers))
        self.norm = self._get("norm.weight", config.hidden)
        head = "head.weight" if "head.weight" in weights else "embedding.weight"
        self.head = self.pack(self._get(head, config.vocabulary, config.hidden))  # [R, E] -> [R, V]
        del self._weights

    # --- the arithmetic

    def embed(self, tokens: Tensor) -> Tensor:
        """[R] -> [R, E] float32."""
        return F.embedding(tokens, self.embedding).float()

    def plan(self, pieces: Sequence[Piece], rows: int, shape: AttentionShape) -> Plan:
        """What is the same in every layer about the attention of ``pieces``, which fill the first of ``rows`` rows."""
        return plan(pieces, rows, self.group, shape, self.config.sliding_window, self.dtype)

    def through(self, layers: Sequence[Layer], caches: Tensor, hidden: Tensor, turns: Tensor, plan: Plan) -> Tensor:
        """``hidden`` behind some layers; changed in place.

        Args:
            caches: [layers, 2, KV, pages, PAGE_TOKENS, D], read and written.
            hidden: [R, E] float32.
            turns: [R, 1, D/2] complex64.
        """
        for layer, arena in zip(layers, caches, strict=True):
            hidden = self.finish(layer, hidden, self.attend(plan, arena, *self.project(layer, hidden, turns)))
        return hidden

    def attend(self, plan: Plan, arena: Tensor, queries: Tensor, keys_values: Tensor) -> Tensor:
        """See :func:`foredraft_cloud.attention.attend`."""
        return attend(plan, arena, queries, keys_values)

    def project(self, layer: Layer, hidden: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        """Queries, and keys and values, of the rows.

        Args:
            hidden: [R, E] float32.
            turns: [R, 1, D/2] complex64.

        Returns:
            [R, G*KV, D], [R, 2, KV, D].
        """
        rows = hidden.shape[0]
        heads, dim = self.config.heads, self.config.head_dim
        qkv = layer.qkv(self.normed(hidden, layer.attention_norm))
        keys_values = qkv[:, self.query_width :].view(rows, 2, -1, dim)
        turned = qkv[:, : self.query_width + self.key_width].float().view(rows, -1, dim)  # [R, G*KV + KV, D]
        if layer.query_key_norm is not None:
            turned = F.rms_norm(turned, (dim,), None, self.config.norm_eps) * layer.query_key_norm
        pairs = torch.view_as_complex(turned.unflatten(2, (-1, 2)))
        turned = torch.view_as_real(pairs * turns).flatten(2)
        keys_values[:, 0].copy_(turned[:, heads:])
        return turned[:, :heads].to(self.dtype), keys_values.to(self.dtype)

    def finish(self, layer: Layer, hidden: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer: [R, E], [R, G*KV*D] -> [R, E]; changes ``hidden`` in place."""
        hidden += layer.output(attended)
        gate_up = layer.gate_up(self.normed(hidden, layer.mlp_norm))
        gate, up = gate_up[:, : self.config.feed_forward], gate_up[:, self.config.feed_forward :]
        hidden += layer.down(F.silu(gate).mul_(up))
        return hidden

    def score(self, hidden: Tensor) -> Tensor:
        """Final norm and head: [R, E] -> [R, V] in the products' dtype."""
        return self.head(self.normed(hidden, self.norm))

    def normed(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """RMS norm: [R, E] float32 -> [R, E] in the products' dtype."""
        return F.rms_norm(hidden, (self.config.hidden,), weight, self.config.norm_eps).to(self.product_dtype)

    # --- loading

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """The linear layer of ``weight`` [out, in] and ``bias`` [out] in the arithmetic of this model."""
        return pack_quantised(weight, bias) if self.quantised else pack(weight, bias, self.dtype)

    def make_layer(self, weights: Weights, index: int) -> Layer:
        """Layer ``index`` of other weights under the same names; raises as the constructor does."""
        self._weights = weights
        try:
            return self._layer(f"layers.{index}.")
        finally:
            del self._weights

    def _get(self, name: str, *shape: int) -> Tensor:
        try:
            weight = torch.from_numpy(np.ascontiguousarray(self._weights[name], dtype=np.float32))
        except KeyError:
            raise ModelDamaged(f"the model has no weight {name!r}; fetch it again.") from None
        if tuple(weight.shape) != shape:
            raise ModelDamaged(f"weight {name!r} has shape {list(weight.shape)}, expected {list(shape)}.")
        return weight

    def _bias(self, name: str, width: int) -> Tensor | None:
        return self._get(name, width) if name in self._weights else None

    def _layer(self, prefix: str) -> Layer:
        config = self.config
        hidden, feed, dim = config.hidden, config.feed_forward, config.head_dim
        query = _interleave(self._regroup(self._get(f"{prefix}attn.q.weight", self.query_width, hidden)), dim)
        key = _interleave(self._get(f"{prefix}attn.k.weight", self.key_width, hidden), dim)
        value = self._get(f"{prefix}attn.v.weight", self.key_width, hidden)
        biases = [
            self._bias(f"{prefix}attn.{name}.bias", width)
            for name, width in (("q", self.query_width), ("k", self.key_width), ("v", self.key_width))
        ]
        query_bias, key_bias, value_bias = (torch.zeros(()) if bias is None else bias for bias in biases)
        qkv_bias = None
        if any(bias is not None for bias in biases):
            query_bias = _interleave(self._regroup(query_bias.expand(self.query_width)), dim)
            key_bias = _interleave(key_bias.expand(self.key_width), dim)
            qkv_bias = torch.cat([query_bias, key_bias, value_bias.expand(self.key_width)])
        norms = None
        if config.qk_norm:
            query_norm = _interleave(self._get(f"{prefix}attn.q_norm.weight", dim), dim)
            key_norm = _interleave(self._get(f"{prefix}attn.k_norm.weight", dim), dim)
            norms = torch.cat([query_norm.expand(config.heads, dim), key_norm.expand(config.kv_heads, dim)])
        output = self._get(f"{prefix}attn.o.weight", hidden, self.query_width)
        gate_up = torch.cat([self._get(f"{prefix}mlp.{name}.weight", feed, hidden) for name in ("gate", "up")])
        return Layer(
            attention_norm=self._get(f"{prefix}attn_norm.weight", hidden),
            qkv=self.pack(torch.cat([query, key, value]), qkv_bias),
            query_key_norm=norms,
            output=self.pack(self._regroup(output.T).T, self._bias(f"{prefix}attn.o.bias", hidden)),
            mlp_norm=self._get(f"{prefix}mlp_norm.weight", hidden),
            gate_up=self.pack(gate_up),
            down=self.pack(self._get(f"{prefix}mlp.down.weight", hidden, feed)),
        )

    def _regroup(self, weight: Tensor) -> Tensor:
        """Query heads from the order (KV, G) into (G, KV): [KV*G*D, ...] -> [G*KV*D, ...]."""
        heads = weight.unflatten(0, (self.config.kv_heads, self.group, self.config.head_dim))
        regrouped: Tensor = heads.transpose(0, 1).flatten(0, 2)
        return regrouped


def _interleave(weight: Tensor, dim: int) -> Tensor:
    """Dimension i of a head beside dimension i + D/2: [heads*D, ...] -> [heads*D, ...]."""
    interleaved: Tensor = weight.unflatten(0, (-1, 2, dim // 2)).transpose(1, 2).flatten(0, 2)
    return interleaved
