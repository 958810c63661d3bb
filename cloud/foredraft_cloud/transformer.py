"""The decoder's arithmetic on one page: Llama, Mistral, Qwen2, Qwen3 and SmolLM2.

Shapes: R rows (one token each, of any session), E hidden size, KV key/value heads, G query heads that share one of them,
D head size, F feed-forward size, V vocabulary, L layers.

The weights are computed with in the order of :mod:`foredraft_shared.models.arrangement`.

The residual stream, norms and rotations are float32 whatever the dtype of the weights. In W8A8 so is what goes into a product
and comes out of one; keys, values and what attention makes of them are bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from numpy.typing import NDArray
from torch import Tensor

from foredraft_shared.models.arrangement import arranged, checked
from foredraft_shared.models.config import ModelConfig

from .attention import AttentionShape, Piece, Plan, attend, plan
from .linear import Linear, pack
from .quantised import pack_quantised
from .reading import Reader, Said, said
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
        self.rotations = rotations(config.rope, config.head_dim, context)  # [context, 1, D/2] complex64
        vocabulary = (config.vocabulary, config.hidden)
        self.embedding = torch.from_numpy(checked(weights, "embedding.weight", *vocabulary)).to(dtype)  # [V, E]
        self.layers = tuple(self.make_layer(weights, index) for index in range(config.layers))
        self.norm = torch.from_numpy(checked(weights, "norm.weight", config.hidden))
        head = "head.weight" if "head.weight" in weights else "embedding.weight"
        self.head = self.pack(torch.from_numpy(checked(weights, head, *vocabulary)))  # [R, E] -> [R, V]

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
        return self.normed_product(self.head, self.norm, hidden)

    def normed_product(self, product: Linear, norm: Tensor, hidden: Tensor) -> Tensor:
        """An RMS norm and a product of this transformer's: [R, E] float32 -> [R, out] in the products' dtype."""
        return product(self.normed(hidden, norm))

    def look(
        self, head: Reader, layer: int, caches: Tensor, hidden: Tensor, turns: Tensor, plan: Plan, rows: Sequence[int]
    ) -> tuple[Tensor, list[Said]]:
        """What ``head`` makes of some rows of ``hidden``, behind ``layer`` layers; the others and ``hidden`` stay as they are.

        Args:
            caches: of all layers. What the head's own writes there is what the trunk's next one will write a moment later.

        Returns:
            Scores [rows, V], and what they say.
        """
        assert head.layer is not None
        states = self.through((head.layer,), caches[layer : layer + 1], hidden.clone(), turns, plan)
        scores = head.rows(self.normed_product(head.map, head.norm, states[list(rows)]))
        return scores, said(scores, head.tokens)

    def normed(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """RMS norm: [R, E] float32 -> [R, E] in the products' dtype."""
        return F.rms_norm(hidden, (self.config.hidden,), weight, self.config.norm_eps).to(self.product_dtype)

    # --- loading

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """The linear layer of ``weight`` [out, in] and ``bias`` [out] in the arithmetic of this model."""
        return pack_quantised(weight, bias) if self.quantised else pack(weight, bias, self.dtype)

    def pack_roughly(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """The same for what decides no token (a hint): in fewer bits where that is quicker."""
        return self.pack(weight, bias)

    def make_layer(self, weights: Weights, index: int, pack: Callable[..., Linear] | None = None) -> Layer:
        """Layer ``index`` of any weights of this configuration, packed by :meth:`pack`; raises as the constructor does."""
        pack = pack or self.pack
        arrays = arranged(self.config, weights, index)
        norms, qkv_bias, output_bias = (
            None if array is None else torch.from_numpy(array)
            for array in (arrays.query_key_norm, arrays.qkv_bias, arrays.output_bias)
        )
        return Layer(
            attention_norm=torch.from_numpy(arrays.attention_norm),
            qkv=pack(torch.from_numpy(arrays.qkv), qkv_bias),
            query_key_norm=norms,
            output=pack(torch.from_numpy(arrays.output), output_bias),
            mlp_norm=torch.from_numpy(arrays.mlp_norm),
            gate_up=pack(torch.from_numpy(arrays.gate_up)),
            down=pack(torch.from_numpy(arrays.down)),
        )
