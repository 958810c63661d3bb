"""The model that is trained: the target's first layers as they are, a few trained ones upon them, a small head.

The frozen part (the *trunk*) and the embedding are the target's own and are not stored with the draft; its output for a
text never changes, so it is computed once. The trained layers begin as copies of layers of the target, and the head as the
target's own rows behind the linear map that best carries the draft's last state to the target's (ridge regression): a
draft is of some use before the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from numpy.typing import NDArray
from torch import Tensor

from foredraft_shared.errors import UsageError
from foredraft_shared.models import Model
from foredraft_shared.models.artifacts import Artifact
from foredraft_shared.models.config import ModelConfig

from ..stored_heads import damaged, head_tokens
from .learner import Learner
from .network import Network, layer_weights, tensor
from .shards import Text
from .texts import batch_of, batches

__all__ = ["DraftModel", "begun_as"]

_CURE = "begin anew, without --from"
_PREPARED = 6144
"""Positions that go through the trunk at a time."""


def begun_as(artifact: Artifact, config: ModelConfig) -> tuple[int, list[int], NDArray[np.int64]]:
    """Of a trained draft: ``frozen``, ``layers`` and ``tokens`` of :class:`DraftModel`.

    Raises:
        ModelDamaged: it does not say.
    """
    shape: list[Any] = [artifact.facts.get(name) for name in ("trained_layers", "began_as")]
    if not all(isinstance(found, list) and found and all(type(each) is int for each in found) for found in shape):
        raise damaged(artifact, "it does not say how it was trained", _CURE)
    (frozen, *_), copied = shape
    return frozen, copied, head_tokens(artifact, config, _CURE)


class DraftModel(Learner):
    """A draft in training.

    Args:
        frozen: how many of the target's first layers are the trunk.
        layers: layers of the target that the trained ones begin as.
        tokens: ids that the head has a row for, ascending.
        dtype: of the arithmetic; the trained parameters are float32.
        context: longest text, in tokens.
        cache_bytes: of trunk outputs that are kept; beyond, they are computed each time.

    Raises:
        UsageError: the target has no such layer.
    """

    four_bits = ("head.weight",)
    """What is learnt of the layers is smaller than such steps."""

    def __init__(
        self,
        model: Model,
        *,
        frozen: int,
        layers: Sequence[int],
        tokens: NDArray[np.int64],
        device: torch.device,
        dtype: torch.dtype = torch.bfloat16,
        context: int = 2048,
        cache_bytes: int = 4_000_000_000,
    ) -> None:
        depth = model.config.layers
        if not layers or not 0 <= frozen <= depth or any(not 0 <= layer < depth for layer in layers):
            raise UsageError(
                f"layers {list(layers)} on {frozen} frozen ones: the target's layers are 0 to {depth - 1}."
            )
        if frozen + len(layers) > depth:
            raise UsageError(f"a draft of {frozen + len(layers)} layers is deeper than its target, which has {depth}.")
        self.config, self.tokens, self.device, self.dtype = model.config, tokens, device, dtype
        self.frozen, self.trained = frozen, len(layers)
        self.network = Network(model.config, device, dtype, min(context, model.config.context))
        weights = model.weights
        self._model = model
        self._embedding = tensor(weights, "embedding.weight", device, dtype)
        self._trunk = [layer_weights(weights, index, device, dtype) for index in range(frozen)]
        self.parameters: dict[str, Tensor] = {}
        """float32, by canonical name; what the optimiser changes."""
        for index, source in enumerate(layers, start=frozen):
            for name, value in layer_weights(weights, source, device, torch.float32).items():
                self.parameters[f"layers.{index}.{name}"] = value
        self.parameters["norm.weight"] = tensor(weights, "norm.weight", device)
        head = tensor(weights, "embedding.weight" if model.config.tied else "head.weight", device)
        self.parameters["head.weight"] = head[torch.from_numpy(tokens).to(device)]
        self.live: dict[str, Tensor] = {}
        """Copies in ``dtype`` that gradients are taken of."""
        self.refresh()
        self.row_of = torch.full((model.config.vocabulary,), -1, dtype=torch.long, device=device)
        """[vocabulary]: row of the head, or -1."""
        self.row_of[torch.from_numpy(tokens).to(device)] = torch.arange(len(tokens), device=device)
        self._states: dict[int, Tensor] = {}
        self._room = cache_bytes

    @property
    def head(self) -> Tensor:
        """[tokens, E]"""
        return self.live["head.weight"]

    def hidden(self, texts: Sequence[Text]) -> Tensor:
        """States after the final norm at the positions that predict the answered tokens, [M, E]."""
        batch = batch_of(texts, self.device)
        state = self._trunk_states(texts, batch.tokens)
        for index in range(self.frozen, self.frozen + self.trained):
            prefix = f"layers.{index}."
            weights = {name.removeprefix(prefix): value for name, value in self.live.items() if name.startswith(prefix)}
            last = index == self.frozen + self.trained - 1
            state = self.network.layer(state, weights, batch.rows if last else None)
        return self.network.norm(state, self.live["norm.weight"])

    @torch.no_grad()
    def scores(self, texts: Sequence[Text]) -> Tensor:
        """[M, head] float32."""
        return F.linear(self.hidden(texts), self.live["head.weight"]).float()

    @torch.no_grad()
    def fit_head(self, texts: Sequence[Text], positions: int = 10_000, ridge: float = 0.02) -> float:
        """Put the best linear map between draft and target into the head, fitted on so many predictions.

        Returns:
            How much of the variance of the target's last state it explains, in (-inf, 1].
        """
        blocks = [
            layer_weights(self._model.weights, index, self.device, self.dtype)
            for index in range(self.frozen, self.config.layers)
        ]
        norm = tensor(self._model.weights, "norm.weight", self.device)
        ours, theirs, seen = [], [], 0
        for group in batches(texts, _PREPARED, 3):
            batch = batch_of(group, self.device)
            ours.append(self.hidden(group).float())
            state = self._trunk_states(group, batch.tokens)
            for block in blocks:
                state = self.network.layer(state, block)
            theirs.append(self.network.norm(state.flatten(0, 1)[batch.rows].float(), norm))
            seen += len(batch.rows)
            if seen >= positions:
                break
        draft, target = torch.cat(ours), torch.cat(theirs)  # [positions, E]
        gram = draft.T @ draft
        damping = ridge * gram.diagonal().mean() * torch.eye(len(gram), device=self.device)
        best = torch.linalg.solve(gram + damping, draft.T @ target)  # [E, E]
        residual = (draft @ best - target).square().sum() / (target - target.mean(0)).square().sum()
        self.parameters["head.weight"] = self.parameters["head.weight"] @ best.T
        self.refresh()
        return 1 - float(residual)

    def go_on_from(self, artifact: Artifact) -> None:
        """Begin as that draft, which :func:`begun_as` has told the shape of.

        Raises:
            ModelDamaged: it lacks a tensor, or holds what is none.
        """
        try:
            self.take(artifact.tensors)
        except ValueError as error:
            raise damaged(artifact, error, _CURE) from None

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What an artifact of this draft holds: the trained tensors, and the tokens of the head."""
        arrays: dict[str, NDArray[np.generic]] = {
            name: value.detach().cpu().numpy() for name, value in self.parameters.items()
        }
        return arrays | {"head.tokens": self.tokens.astype(np.int32)}

    @torch.no_grad()
    def _trunk_states(self, texts: Sequence[Text], tokens: Tensor) -> Tensor:
        """[B, T, E]: what the trained layers see; remembered while there is room."""
        if all(id(text) in self._states for text in texts):
            state = torch.zeros(*tokens.shape, self.config.hidden, dtype=self.dtype, device=self.device)
            for index, text in enumerate(texts):
                state[index, : len(text.tokens)] = self._states[id(text)]
            return state
        state = F.embedding(tokens, self._embedding)
        for block in self._trunk:
            state = self.network.layer(state, block)
        for index, text in enumerate(texts):
            kept = state[index, : len(text.tokens)].clone()
            size = kept.numel() * kept.element_size()
            if id(text) not in self._states and size <= self._room:
                self._states[id(text)] = kept
                self._room -= size
        return state
