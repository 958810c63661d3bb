"""Exit heads that were trained for a target (``foredraft train exits``), as the server runs them.

A head is a residual step upon the exit's state (a feed-forward part, or the whole of the target's next layer, taught anew),
a norm, a matrix to where the target's last state would be, and the target's own rows for its most frequent tokens. Its
matrices lie in the arithmetic of the target, in the compiled kernels in W8A8 whatever the target's: what it says is a hint and
never decides a token. Where its word is final (:mod:`~foredraft_cloud.lossy`) they always lie in that of the target.
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
from foredraft_shared.models.arrangement import checked
from foredraft_shared.models.artifacts import Artifact
from foredraft_shared.sampling import pick

from .attention import Plan
from .foresight import Foresight, evidence
from .linear import Linear
from .reading import Reader, Said, said
from .transformer import Layer, Transformer, Weights

__all__ = ["SubVocabularyLogits", "TrainedHead", "layers_of", "trained_heads"]


class SubVocabularyLogits:
    """Scores over the tokens that a head can say.

    Attributes:
        scores: [rows, tokens].
    """

    def __init__(self, scores: Tensor, rows: list[Said], tokens: NDArray[np.int64], foresight: Foresight) -> None:
        self.scores = scores
        self._said, self._tokens, self._foresight = rows, tokens, foresight

    def __len__(self) -> int:
        return len(self.scores)

    def pick(self, row: int, params: SamplingParams, position: Position) -> TokenId:
        """What the head alone would pick, drafts unseen; under sampling with noise of its own numbering."""
        return int(self._tokens[pick(self.scores[row].float().numpy(), params, position)])

    def foresee(
        self, row: int, drafted: TokenId | None, params: SamplingParams, position: Position, before: int, trust: float
    ) -> tuple[TokenId, float]:
        seen = evidence(self._said[row], self._tokens, drafted, params, position, before, trust)
        return self._foresight(seen, drafted)


class TrainedHead:
    """See :class:`~foredraft_cloud.exit_heads.ExitHead`.

    Args:
        tensors: of this head, by name.
        rows: [tokens, E], the target's.
        final: see :func:`trained_heads`.

    Raises:
        ModelDamaged: a tensor is of a wrong shape.
        KeyError: a tensor is missing.
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
        final: bool,
    ) -> None:
        self._transformer, self._foresight = transformer, foresight
        self.tokens = tokens
        """That it can say, ascending."""
        self._mlp: tuple[Tensor, Linear, Linear] | None = None
        own: Layer | None = None
        pack = transformer.pack if final else transformer.pack_roughly
        hidden, feed = transformer.config.hidden, transformer.config.feed_forward

        def tensor(name: str, *shape: int) -> Tensor:
            return torch.from_numpy(checked({name: tensors[name]}, name, *shape))

        if "attn_norm.weight" not in tensors:
            gate_up = torch.cat([tensor(f"mlp.{name}.weight", feed, hidden) for name in ("gate", "up")])
            down = tensor("mlp.down.weight", hidden, feed)
            self._mlp = tensor("mlp_norm.weight", hidden), pack(gate_up), pack(down)
        elif not final:
            prefix = f"layers.{layer}."
            named = {prefix + name: value for name, value in tensors.items()}
            own = transformer.make_layer(ChainMap(named, weights), layer, pack)  # type: ignore[arg-type]
        map_ = pack(tensor("map.weight", hidden, hidden))
        ids = torch.from_numpy(tokens)
        self.reader = Reader(own, tensor("norm.weight", hidden), map_, pack(torch.from_numpy(rows)), ids)

    def __call__(self, hidden: Tensor) -> SubVocabularyLogits:
        scores = self.scores(hidden)
        return SubVocabularyLogits(scores, said(scores, self.reader.tokens), self.tokens, self._foresight)

    def look(
        self, layer: int, caches: Tensor, hidden: Tensor, turns: Tensor, plan: Plan, rows: Sequence[int]
    ) -> SubVocabularyLogits:
        """The same of some rows of the trunk's states [R, E], where the head has a layer; see :meth:`Transformer.look`."""
        found = self._transformer.look(self.reader, layer, caches, hidden, turns, plan, rows)
        return SubVocabularyLogits(*found, self.tokens, self._foresight)

    def scores(self, hidden: Tensor) -> Tensor:
        """[R, E] float32, behind the head's own layer where it has one -> [R, tokens] of those it can say."""
        if self._mlp is not None:
            norm, gate_up, down = self._mlp
            gate, up = self._transformer.normed_product(gate_up, norm, hidden).chunk(2, 1)
            hidden = hidden + down(F.silu(gate).mul_(up))
        return self.reader.rows(self._transformer.normed_product(self.reader.map, self.reader.norm, hidden))


def layers_of(artifact: Artifact) -> tuple[int, ...]:
    """The layers that it has a head for, ascending."""
    return tuple(sorted({int(name.split(".")[1]) for name in artifact.tensors if name.startswith("exits.")}))


def trained_heads(
    artifact: Artifact, transformer: Transformer, weights: Weights, layers: Sequence[int], *, final: bool = False
) -> dict[int, TrainedHead]:
    """The heads of ``artifact`` at ``layers``, by layer; layers it has none for are left out.

    Args:
        final: what they say decides tokens. They compute in the arithmetic of ``transformer``, and without a layer of their own,
            which is its last one.

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
            heads[layer] = TrainedHead(transformer, layer, tensors, rows, tokens, foresight, weights, final)
            _try(heads[layer], transformer, int(tokens[0]))
    except KeyError as error:
        raise ModelDamaged(f"{artifact.path} lacks {error}; train its exits again.") from None
    except (ModelDamaged, IndexError, TypeError, ValueError) as error:
        reason = str(error).rstrip(".")
        raise ModelDamaged(f"{artifact.path} is damaged ({reason}); train its exits again.") from None
    except (RuntimeError, UsageError) as error:
        raise UsageError(f"{artifact.path} does not fit this version ({error}); train its exits again.") from None
    return heads


def _try(head: TrainedHead, transformer: Transformer, token: TokenId) -> None:
    """Run a head once: matrices and features that do not fit are found at the start, not in somebody's round."""
    with torch.inference_mode():
        view = head(torch.zeros(4, transformer.config.hidden))
    view.foresee(0, token, SamplingParams(), 0, 0, 0.5)
    view.foresee(1, None, SamplingParams(temperature=1.0), 0, 1, 0.5)
