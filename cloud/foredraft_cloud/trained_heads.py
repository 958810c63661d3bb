"""Exit heads that were trained for a target (``foredraft train exits``), as the server runs them.

A head is a residual step upon the exit's state (a feed-forward part, or the whole of the target's next layer, taught anew),
a norm, a matrix to where the target's last state would be, and the target's own rows for its most frequent tokens. Its
matrices lie in the arithmetic of the target. What it says is a hint and never decides a token, so that its products need no
proven shapes; they are asked for in the target's all the same.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from numpy.typing import NDArray
from torch import Tensor

from foredraft_shared.errors import ModelDamaged, UsageError
from foredraft_shared.messages import Position, SamplingParams, TokenId
from foredraft_shared.models.artifacts import Artifact
from foredraft_shared.sampling import pick

from .foresight import Foresight, evidence
from .linear import Linear
from .transformer import Layer, Transformer, Weights

__all__ = ["SubVocabularyLogits", "TrainedHead", "layers_of", "trained_heads"]


class SubVocabularyLogits:
    """Scores over the tokens that a head can say.

    Attributes:
        scores: [rows, tokens] float32.
    """

    def __init__(self, scores: Tensor, tokens: NDArray[np.int64], foresight: Foresight) -> None:
        self.scores: NDArray[np.float32] = scores.float().numpy()
        self._tokens, self._foresight = tokens, foresight

    def __len__(self) -> int:
        return len(self.scores)

    def pick(self, row: int, params: SamplingParams, position: Position) -> TokenId:
        """What the head alone would pick, drafts unseen; under sampling with noise of its own numbering."""
        return int(self._tokens[pick(self.scores[row], params, position)])

    def foresee(
        self, row: int, drafted: TokenId | None, params: SamplingParams, position: Position, trust: float
    ) -> tuple[TokenId, float]:
        seen = evidence(self.scores[row], self._tokens, drafted, params, position, row, trust)
        return self._foresight(seen, drafted)


class TrainedHead:
    """See :class:`~foredraft_cloud.exit_heads.ExitHead`.

    Args:
        tensors: of this head, by name.
        rows: [tokens, E], the target's.
    """

    def __init__(
        self,
        transformer: Transformer,
        layer: int,
        tensors: Mapping[str, NDArray[np.float32]],
        rows: NDArray[np.float32],
        tokens: NDArray[np.int64],
        foresight: Foresight,
        weights: Weights,
    ) -> None:
        self._transformer, self._foresight = transformer, foresight
        self.tokens = tokens
        """That it can say, ascending."""
        self.layer: Layer | None = None
        self._mlp: tuple[Tensor, Linear, Linear] | None = None
        if "attn_norm.weight" in tensors:
            prefix = f"layers.{layer}."
            own = {prefix + name: value for name, value in tensors.items()}
            self.layer = transformer.make_layer(ChainMap(own, weights), layer)  # type: ignore[arg-type]
        else:
            gate_up = np.concatenate([tensors["mlp.gate.weight"], tensors["mlp.up.weight"]])
            norm, down = (torch.from_numpy(tensors[name]) for name in ("mlp_norm.weight", "mlp.down.weight"))
            self._mlp = norm, transformer.pack(torch.from_numpy(gate_up)), transformer.pack(down)
        self._norm = torch.from_numpy(tensors["norm.weight"])
        self._map = transformer.pack(torch.from_numpy(tensors["map.weight"]))
        self._rows = transformer.pack(torch.from_numpy(rows))

    def __call__(self, hidden: Tensor) -> SubVocabularyLogits:
        return SubVocabularyLogits(self.scores(hidden), self.tokens, self._foresight)

    def scores(self, hidden: Tensor) -> Tensor:
        """[R, E] float32, behind :attr:`layer` where there is one -> [R, tokens] of those it can say."""
        if self._mlp is not None:
            norm, gate_up, down = self._mlp
            gate, up = gate_up(self._transformer.normed(hidden, norm)).chunk(2, 1)
            hidden = hidden + down(F.silu(gate).mul_(up))
        return self._rows(self._map(self._transformer.normed(hidden, self._norm)))


def layers_of(artifact: Artifact) -> tuple[int, ...]:
    """The layers that it has a head for, ascending."""
    return tuple(sorted({int(name.split(".")[1]) for name in artifact.tensors if name.startswith("exits.")}))


def trained_heads(
    artifact: Artifact, transformer: Transformer, weights: Weights, layers: Sequence[int]
) -> dict[int, TrainedHead]:
    """The heads of ``artifact`` at ``layers``, by layer; layers it has none for are left out.

    Raises:
        ModelDamaged: it lacks a tensor or a calibration, or one is of a wrong shape.
        UsageError: it was made by a version whose calibration reads other features.
    """
    heads = {}
    try:
        tokens: NDArray[np.int64] = np.asarray(artifact.tensors["head.tokens"]).astype(np.int64)
        name = "embedding.weight" if transformer.config.tied else "head.weight"
        rows = np.ascontiguousarray(weights[name][tokens], np.float32)
        facts: Mapping[str, Any] = artifact.facts["exits"]
        for layer in sorted({*layers} & {*layers_of(artifact)}):
            prefix = f"exits.{layer}."
            tensors: dict[str, NDArray[np.float32]] = {
                name.removeprefix(prefix): value for name, value in artifact.tensors.items() if name.startswith(prefix)
            }
            foresight = Foresight.of(facts[str(layer)]["foresight"])
            heads[layer] = TrainedHead(transformer, layer, tensors, rows, tokens, foresight, weights)
            _try(heads[layer], transformer, int(tokens[0]))
    except (KeyError, TypeError, IndexError) as error:
        raise ModelDamaged(f"{artifact.path} lacks {error}; train its exits again.") from None
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{artifact.path} does not fit this version ({error}); train its exits again.") from None
    return heads


def _try(head: TrainedHead, transformer: Transformer, token: TokenId) -> None:
    """Run a head once: matrices and features that do not fit are found at the start, not in somebody's round."""
    with torch.inference_mode():
        view = head(torch.zeros(4, transformer.config.hidden))
    view.foresee(0, token, SamplingParams(), 0, 0.5)
    view.foresee(1, None, SamplingParams(temperature=1.0), 0, 0.5)
