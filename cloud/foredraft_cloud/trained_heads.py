"""Exit heads that were trained for a target (``foredraft train exits``), as the server runs them.

A head is a residual step upon the exit's state (a feed-forward part, or the whole of the target's next layer, taught anew),
a norm, a matrix to where the target's last state would be, and the target's own rows for its most frequent tokens. Its
matrices lie in the arithmetic of the target, in the compiled kernels in W8A8 whatever the target's: what it says is a hint and
never decides a token. Where its word is final (:mod:`~foredraft_cloud.lossy`) they always lie in that of the target.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from numpy.typing import NDArray
from torch import Tensor

from foredraft_shared.messages import Position, SamplingParams, TokenId
from foredraft_shared.models.artifacts import Artifact
from foredraft_shared.sampling import pick

from .attention import Plan
from .foresight import Foresight, evidence
from .linear import Linear
from .reading import Reader, Said, said
from .stored_heads import StoredHead, foresight_of, layers_of, stored_heads
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
        rows: [tokens, E], the target's.
        final: see :func:`trained_heads`.
    """

    def __init__(
        self,
        transformer: Transformer,
        layer: int,
        stored: StoredHead,
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
        tensors = {name: torch.from_numpy(value) for name, value in stored.tensors.items()}
        if not stored.attends:
            gate_up = torch.cat([tensors["mlp.gate.weight"], tensors["mlp.up.weight"]])
            self._mlp = tensors["mlp_norm.weight"], pack(gate_up), pack(tensors["mlp.down.weight"])
        elif not final:
            named = {f"layers.{layer}.{name}": value for name, value in stored.tensors.items()}
            own = transformer.make_layer(ChainMap(named, weights), layer, pack)  # type: ignore[arg-type]
        head, ids = pack(torch.from_numpy(rows)), torch.from_numpy(tokens)
        self.reader = Reader(own, tensors["norm.weight"], pack(tensors["map.weight"]), head, ids)

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


def trained_heads(
    artifact: Artifact, transformer: Transformer, weights: Weights, layers: Sequence[int], *, final: bool = False
) -> dict[int, TrainedHead]:
    """The heads of ``artifact`` at ``layers``, by layer; layers it has none for are left out.

    Args:
        weights: of the whole target.
        final: what they say decides tokens. They compute in the arithmetic of ``transformer``, and without a layer of their own,
            which is its last one.

    Raises:
        ModelDamaged, UsageError: see :func:`~foredraft_cloud.stored_heads.stored_heads` and
            :func:`~foredraft_cloud.stored_heads.foresight_of`.
    """
    stored = stored_heads(artifact, transformer.config, weights)
    rows = np.ascontiguousarray(
        weights["embedding.weight" if transformer.config.tied else "head.weight"][stored.tokens], np.float32
    )
    return {
        layer: TrainedHead(transformer, layer, head, rows, stored.tokens, foresight_of(artifact, head), weights, final)
        for layer, head in stored.heads.items()
        if layer in layers
    }
