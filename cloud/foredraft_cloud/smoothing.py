"""Outliers moved from activations into weights, before both are quantised (SmoothQuant, arXiv:2211.10438).

A few channels of a decoder's activations are many times as large as the others, and a row's scale follows the largest. So
each channel is divided by a factor and the weight's column multiplied by it: the product is the same, and both sides are
even enough for eight bits. The factor of channel j is ``sqrt(max |x_j| / max |w_j|)``. None of it costs anything when the
model runs: what divides goes into the weight of the norm before, and in front of the down projection into the rows of the up
projection.

The activations are those of one short text, read once in float32 when the model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from numpy.typing import NDArray
from torch import Tensor

from foredraft_shared.errors import ForedraftError
from foredraft_shared.messages import TokenId
from foredraft_shared.models.config import ModelConfig

from .training.network import Network, layer_weights, tensor
from .transformer import Weights

__all__ = ["calibration_tokens", "smoothed"]

_TEXT = """A ship's clock must keep good time. In 1714 the British government offered a prize for finding longitude at sea; \
John Harrison, a carpenter from Yorkshire, spent forty years building one that would.
def mean(values):
    return sum(values) / len(values) if values else 0.0
Q: If 3 pens cost $4.50, what do 7 cost? A: Each costs 1.50, so seven cost 10.50 dollars.
1. Wash the rice. 2. Add two cups of water. 3. Bring it to a boil, then simmer for fifteen minutes.
Das Wetter ist heute schön. Le chat dort sur la chaise. What would you like to know?"""

_Factors: TypeAlias = "dict[str, NDArray[np.float32]]"


class _Smoothed(Mapping[str, NDArray[np.float32]]):
    """Weights with factors on their outputs and inputs, both by name."""

    def __init__(self, weights: Weights, outputs: _Factors, inputs: _Factors, tied: bool) -> None:
        self._weights, self._outputs, self._inputs = weights, outputs, inputs
        self._names = {name: name for name in weights}
        if tied:  # the head is smoothed, the embedding is not
            self._names["head.weight"] = "embedding.weight"

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        weight = self._weights[self._names[name]]
        if name in self._outputs:
            weight = weight * (self._outputs[name] if weight.ndim == 1 else self._outputs[name][:, None])
        if name in self._inputs:
            weight = weight * self._inputs[name]
        return weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def calibration_tokens(model: object) -> Sequence[TokenId]:
    """A short text in the tokens of ``model``, as its template frames one; empty where it has no tokenizer."""
    try:
        tokenizer = getattr(model, "tokenizer", None)
    except ForedraftError:
        return ()
    if tokenizer is None:
        return ()
    text = tokenizer.chat([{"role": "user", "content": _TEXT}]) if tokenizer.chat_template else _TEXT
    tokens: Sequence[TokenId] = tokenizer.encode(text)
    return tokens


def smoothed(config: ModelConfig, weights: Weights, tokens: Sequence[TokenId]) -> Weights:
    """The same function of tokens, with weights that are better quantised.

    Args:
        tokens: a text to see activations of; without, the weights are returned as they are.
    """
    if not tokens:
        return weights
    device, float32 = torch.device("cpu"), torch.float32
    network = Network(config, device, float32, len(tokens))
    embedding = tensor(weights, "embedding.weight", device)
    outputs: _Factors = {}
    inputs: _Factors = {}
    hidden = F.embedding(torch.tensor([tokens]), embedding)
    for index in range(config.layers):
        prefix = f"layers.{index}."
        layer = layer_weights(weights, index, device, float32)
        largest: dict[str, Tensor] = {}

        def watch(product: str, seen: Tensor, largest: dict[str, Tensor] = largest) -> None:
            largest[product] = seen[0].abs().amax(0)

        hidden = network.layer(hidden, layer, watch=watch)
        for product, divided, multiplied in (
            ("qkv", "attn_norm", ("attn.q", "attn.k", "attn.v")),
            ("gate_up", "mlp_norm", ("mlp.gate", "mlp.up")),
            ("down", "mlp.up", ("mlp.down",)),
        ):
            factor = _factor(largest[product], [layer[f"{name}.weight"] for name in multiplied])
            outputs[f"{prefix}{divided}.weight"] = 1.0 / factor
            inputs.update({f"{prefix}{name}.weight": factor for name in multiplied})
    head = embedding if config.tied else tensor(weights, "head.weight", device)
    norm = tensor(weights, "norm.weight", device)
    factor = _factor(network.norm(hidden[0], norm).abs().amax(0), [head])
    outputs["norm.weight"], inputs["head.weight"] = 1.0 / factor, factor
    return _Smoothed(weights, outputs, inputs, config.tied)


def _factor(activations: Tensor, weights: Sequence[Tensor]) -> NDArray[np.float32]:
    """[in]; from the largest activation [in] and the weights [out, in] that it is multiplied by."""
    largest = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
    factor: NDArray[np.float32] = (activations.clamp(min=1e-5) / largest.clamp(min=1e-5)).sqrt().numpy()
    return factor
