"""The head of one exit, in training: a little of the target again, upon its state at a layer, and a frozen vocabulary.

Two kinds, both begun as copies of the target's own next layer:

* ``mlp``: its feed-forward part, a residual upon the state. It sees one position.
* ``attention``: the whole layer, of which queries, output and feed-forward are trained. Its keys and values stay the
  trunk's own: the layer above the exit would compute the very same a moment later, so that no cache of its own is needed.

Upon that a matrix, begun as the linear map that best carries the exit's state to the target's last one (ridge regression,
the idea of the tuned lens, Belrose et al. 2303.08112), and the target's own rows for its most frequent tokens. These are
frozen and not stored: an exit for hidden size 576 is 3 MB in int8, with attention 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from numpy.typing import NDArray
from torch import Tensor

from foredraft_shared.errors import UsageError
from foredraft_shared.models import Model

from .learner import Learner
from .network import layer_weights, tensor
from .shards import Text
from .states import States
from .texts import batch_of

__all__ = ["KINDS", "ExitModel", "check_exits"]

KINDS = ("mlp", "attention")
_FEED_FORWARD = ("mlp_norm.weight", "mlp.gate.weight", "mlp.up.weight", "mlp.down.weight")
_ATTENTION = ("attn_norm.weight", "attn.q.weight", "attn.q.bias", "attn.q_norm.weight", "attn.o.weight", "attn.o.bias")


def check_exits(model: Model, layers: Sequence[int], kind: str) -> None:
    """Raises :class:`UsageError` unless ``model`` can have such exits."""
    for layer in layers:
        if not 0 < layer < model.config.layers:
            raise UsageError(
                f"an exit after {layer} layers: the target has {model.config.layers}; choose --layers below that."
            )
    if kind not in KINDS:
        raise UsageError(f"head is {kind!r}; choose {' or '.join(KINDS)}.")


class ExitModel(Learner):
    """A :class:`~foredraft_cloud.training.fitting.Student` at one layer.

    Args:
        layer: layers below the exit.
        kind: ``mlp`` or ``attention``.
        tokens: ids it can say, ascending.

    Raises:
        UsageError: the target has no such layer to exit from.
    """

    def __init__(self, model: Model, states: States, layer: int, kind: str, tokens: NDArray[np.int64]) -> None:
        check_exits(model, (layer,), kind)
        self.layer, self.kind, self.tokens = layer, kind, tokens
        self.device, self.dtype = states.device, states.dtype
        self._states = states
        own = layer_weights(model.weights, layer, self.device, torch.float32)
        trained = (*_FEED_FORWARD, *(_ATTENTION if kind == "attention" else ()))
        self.parameters: dict[str, Tensor] = {name: own[name] for name in trained if name in own}
        """float32, by canonical name; what the optimiser changes."""
        self._kept = {name: value.to(self.dtype) for name, value in own.items() if name not in self.parameters}
        self.parameters["norm.weight"] = tensor(model.weights, "norm.weight", self.device)
        self.parameters["map.weight"] = torch.eye(model.config.hidden, device=self.device)
        self.live: dict[str, Tensor] = {}
        """Copies in ``dtype`` that gradients are taken of."""
        self.refresh()
        rows = tensor(model.weights, "embedding.weight" if model.config.tied else "head.weight", self.device)
        self.head = rows[torch.from_numpy(tokens).to(self.device)].to(self.dtype)
        """[tokens, E], frozen."""
        self.row_of = torch.full((model.config.vocabulary,), -1, dtype=torch.long, device=self.device)
        """[vocabulary]: row of the head, or -1."""
        self.row_of[torch.from_numpy(tokens).to(self.device)] = torch.arange(len(tokens), device=self.device)

    def hidden(self, texts: Sequence[Text]) -> Tensor:
        """What the frozen rows are multiplied with, at the positions that predict the answered tokens, [M, E]."""
        return F.linear(self._normed(texts), self.live["map.weight"])

    @torch.no_grad()
    def scores(self, texts: Sequence[Text]) -> Tensor:
        """[M, tokens] float32."""
        return F.linear(self.hidden(texts), self.head).float()

    @torch.no_grad()
    def fit_map(self, texts: Sequence[Text], final: Tensor, ridge: float = 0.02) -> float:
        """Begin with the best linear map from the exit's state to the target's last one.

        Args:
            final: [M, E] of :meth:`States.final` for the same texts.

        Returns:
            How much of that state's variance it explains, in (-inf, 1].
        """
        ours = self._normed(texts).float()
        gram = ours.T @ ours
        damping = ridge * gram.diagonal().mean() * torch.eye(len(gram), device=self.device)
        best = torch.linalg.solve(gram + damping, ours.T @ final)  # [E, E]
        residual = (ours @ best - final).square().sum() / (final - final.mean(0)).square().sum()
        self.parameters["map.weight"] = best.T.contiguous()
        self.refresh()
        return 1 - float(residual)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What an artifact holds of it, under ``exits.{layer}.``."""
        return {f"exits.{self.layer}.{name}": value.detach().cpu().numpy() for name, value in self.parameters.items()}

    def _normed(self, texts: Sequence[Text]) -> Tensor:
        network, live = self._states.network, self.live
        if self.kind == "attention":
            batch = batch_of(texts, self.device)
            state = network.layer(self._states.padded(texts, self.layer), self._kept | live, batch.rows)
        else:
            state = self._states.answering(texts, self.layer)
            normed = network.norm(state, live["mlp_norm.weight"])
            gated = F.silu(F.linear(normed, live["mlp.gate.weight"])) * F.linear(normed, live["mlp.up.weight"])
            state = state + F.linear(gated, live["mlp.down.weight"])
        return network.norm(state, live["norm.weight"])
