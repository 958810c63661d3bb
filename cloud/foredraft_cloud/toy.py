"""A target without weights: a hash that behaves like a language model.

Its scores depend on every token of the text, so a cache that holds one wrong token gives another continuation. It obeys
the whole :class:`~foredraft_cloud.target.Target` protocol and checks that its callers do. Shipped with the product, for
anyone who tests what stands around a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.errors import Overloaded
from foredraft_shared.ledger import EMPTY_DIGEST, extend_digest
from foredraft_shared.messages import Position, SamplingParams, TokenId
from foredraft_shared.sampling import pick, probabilities

from .target import ExitView, Run

__all__ = ["ToyLogits", "ToyPass", "ToySlot", "ToyTarget", "toy_scores"]


def toy_scores(tokens: Sequence[TokenId], vocabulary: int = 64, salt: int = 0) -> NDArray[np.float64]:
    """Scores, ``[vocabulary]``, of what follows ``tokens``: a pure function of the whole text, rather peaked."""
    digest = extend_digest(EMPTY_DIGEST ^ salt, tokens)
    generator = np.random.Generator(np.random.Philox(key=digest))
    return 6.0 * generator.random(vocabulary) ** 3


@dataclass(eq=False)
class ToySlot:
    tokens: list[TokenId] = field(default_factory=list)
    released: bool = False

    @property
    def length(self) -> Position:
        return len(self.tokens)


class ToyLogits:
    """Scores of the scored rows, ``[rows, vocabulary]``."""

    def __init__(self, scores: Sequence[NDArray[np.float64]]) -> None:
        self._scores = scores

    def __len__(self) -> int:
        return len(self._scores)

    def pick(self, row: int, params: SamplingParams, position: Position) -> TokenId:
        return pick(self._scores[row], params, position)

    def confidence(self, row: int, token: TokenId) -> float:
        return float(probabilities(self._scores[row], SamplingParams(temperature=1.0))[token])


class ToyPass:
    def __init__(self, target: ToyTarget, batch: Sequence[Run], exits: Sequence[int]) -> None:
        self._target = target
        self._batch = batch
        self._exits = list(exits)

    def step(self, wanted: Sequence[bool] | None = None) -> ExitView:
        if not self._exits:
            raise RuntimeError("the pass is already at full depth")
        layer = self._exits.pop(0)
        final = not self._exits
        logits: list[ToyLogits | None] = []
        for index, run in enumerate(self._batch):
            asked = bool(run.scored) and (final or wanted is None or wanted[index])
            logits.append(self._score(run, layer, final) if asked else None)
        if final:
            for run in self._batch:
                assert isinstance(run.slot, ToySlot)
                run.slot.tokens.extend(run.tokens)
        return ExitView(layer, final, tuple(logits))

    def _score(self, run: Run, layer: int, final: bool) -> ToyLogits:
        assert isinstance(run.slot, ToySlot)
        text = [*run.slot.tokens, *run.tokens]
        rows = []
        for row in range(run.scored):
            prefix = text[: len(text) - run.scored + row + 1]
            scores = toy_scores(prefix, self._target.vocabulary)
            if not final:  # an exit is nearly right, more so the deeper it is
                doubt = 1.0 - layer / self._target.exits[-1]
                scores = scores + doubt * 3.0 * toy_scores(prefix, self._target.vocabulary, salt=layer)
            rows.append(scores)
        return ToyLogits(rows)


class ToyTarget:
    """See the module. ``slots`` bounds how many sessions fit."""

    def __init__(self, *, vocabulary: int = 64, exits: Sequence[int] = (2, 4), context: int = 4096, slots: int = 64):
        self.exits = tuple(exits)
        self.vocabulary = vocabulary
        self.context = context
        self._free = slots
        self.passes = 0
        self.rows = 0

    def open(self) -> ToySlot:
        if not self._free:
            raise Overloaded("every slot of the toy target is taken; close a session first.")
        self._free -= 1
        return ToySlot()

    def release(self, slot: ToySlot) -> None:
        assert not slot.released
        slot.released = True
        self._free += 1

    def verify(self, batch: Sequence[Run], *, exits: bool = True) -> ToyPass:
        assert batch, "a pass needs at least one run"
        assert len({id(run.slot) for run in batch}) == len(batch), "a slot may stand in a batch once"
        for run in batch:
            assert isinstance(run.slot, ToySlot)
            assert not run.slot.released, "the slot was released"
            assert 0 <= run.scored <= len(run.tokens)
            assert run.tokens, "a run feeds at least one token"
            assert all(0 <= token < self.vocabulary for token in run.tokens)
            assert run.slot.length + len(run.tokens) <= self.context
        self.passes += 1
        self.rows += sum(len(run.tokens) for run in batch)
        return ToyPass(self, batch, self.exits if exits else self.exits[-1:])

    def keep(self, slot: ToySlot, length: Position) -> None:
        assert 0 <= length <= slot.length
        del slot.tokens[length:]
