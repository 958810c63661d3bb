"""A target without weights: a hash that behaves like a language model.

Its scores depend on every token of the text, so a cache that holds one wrong token gives another continuation. It obeys
the whole :class:`~foredraft_cloud.target.Target` protocol and checks that its callers do. Shipped with the product, for
anyone who tests what stands around a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.ledger import EMPTY_DIGEST, extend_digest
from foredraft_shared.messages import Position, SamplingParams, TokenId
from foredraft_shared.sampling import pick, probabilities

from .pages import PagedTarget, Pages, Slot
from .target import ExitView, Run

__all__ = ["ToyLogits", "ToyPass", "ToyTarget", "toy_scores"]


def toy_scores(tokens: Sequence[TokenId], vocabulary: int = 64, salt: int = 0) -> NDArray[np.float64]:
    """Scores, ``[vocabulary]``, of what follows ``tokens``: a pure function of the whole text, rather peaked."""
    digest = extend_digest(EMPTY_DIGEST ^ salt, tokens)
    generator = np.random.Generator(np.random.Philox(key=digest))
    return 6.0 * generator.random(vocabulary) ** 3


class ToyLogits:
    """Scores of the scored rows, ``[rows, vocabulary]``."""

    def __init__(self, scores: Sequence[NDArray[np.float64]]) -> None:
        self._scores = scores

    def __len__(self) -> int:
        return len(self._scores)

    def pick(self, row: int, params: SamplingParams, position: Position) -> TokenId:
        return pick(self._scores[row], params, position)

    def foresee(
        self, row: int, drafted: TokenId | None, params: SamplingParams, position: Position, trust: float
    ) -> tuple[TokenId, float]:
        token = self.pick(row, params, position)
        return token, float(probabilities(self._scores[row], SamplingParams(temperature=1.0))[token])


class ToyPass:
    def __init__(self, target: ToyTarget, batch: Sequence[Run], exits: Sequence[int]) -> None:
        self._target = target
        self._batch = batch
        self._exits = list(exits)
        self._kept = [len(run.tokens) for run in batch]

    def narrow(self, kept: Sequence[int]) -> None:
        assert self._exits, "the pass is over"
        assert all(0 <= new <= old for new, old in zip(kept, self._kept, strict=True))
        self._kept = list(kept)

    def step(self, wanted: Sequence[bool] | None = None) -> ExitView:
        if not self._exits:
            raise RuntimeError("the pass is already at full depth")
        layer = self._exits.pop(0)
        final = not self._exits
        logits: list[ToyLogits | None] = []
        for index, run in enumerate(self._runs()):
            asked = bool(run.scored) and (final or wanted is None or wanted[index])
            logits.append(self._score(run, layer, final) if asked else None)
        if final:
            for run in self._runs():
                self._target.write(run)
        return ExitView(layer, final, tuple(logits))

    def _runs(self) -> list[Run]:
        """What is left of the runs."""
        return [
            Run(run.slot, run.tokens[:kept], max(0, run.scored - len(run.tokens) + kept))
            for run, kept in zip(self._batch, self._kept, strict=True)
        ]

    def _score(self, run: Run, layer: int, final: bool) -> ToyLogits:
        text = [*self._target.read(run.slot), *run.tokens]
        rows = []
        for row in range(run.scored):
            prefix = text[: len(text) - run.scored + row + 1]
            scores = toy_scores(prefix, self._target.vocabulary)
            if not final:  # an exit is nearly right, more so the deeper it is
                doubt = 1.0 - layer / self._target.exits[-1]
                scores = scores + doubt * 3.0 * toy_scores(prefix, self._target.vocabulary, salt=layer)
            rows.append(scores)
        return ToyLogits(rows)


class ToyTarget(PagedTarget):
    """See the module.

    Args:
        pages: what the cache holds, in pages of ``page_tokens`` tokens.
    """

    def __init__(
        self,
        *,
        vocabulary: int = 64,
        exits: Sequence[int] = (2, 4),
        context: int = 4096,
        pages: int = 16384,
        page_tokens: int = 16,
    ) -> None:
        super().__init__(Pages(pages, page_tokens, page_tokens * 8, self._copy))
        self.exits = tuple(exits)
        self.vocabulary = vocabulary
        self.context = min(context, pages * page_tokens)
        self.passes = 0
        self.rows = 0
        self._written: dict[int, list[TokenId]] = {}
        """What pages say, kept apart from what :class:`Pages` takes them to say: a mistake there gives other scores."""

    def verify(self, batch: Sequence[Run], *, exits: bool = True) -> ToyPass:
        assert batch, "a pass needs at least one run"
        assert len({id(run.slot) for run in batch}) == len(batch), "a slot may stand in a batch once"
        for run in batch:
            assert 0 <= run.scored <= len(run.tokens)
            assert run.tokens, "a run feeds at least one token"
            assert all(0 <= token < self.vocabulary for token in run.tokens)
            assert run.slot.length + len(run.tokens) <= self.context
            self.make_room(run.slot, run.slot.length + len(run.tokens))
        self.passes += 1
        self.rows += sum(len(run.tokens) for run in batch)
        return ToyPass(self, batch, self.exits if exits else self.exits[-1:])

    def read(self, slot: Slot) -> list[TokenId]:
        """The text in a slot, from its pages."""
        return [token for page in slot.pages for token in self._page(page)][: slot.length]

    def write(self, run: Run) -> None:
        """Write a run's tokens after what its slot holds."""
        for position, token in enumerate(run.tokens, run.slot.length):
            number, offset = divmod(position, self.pages.page_tokens)
            self._page(run.slot.pages[number])[offset] = token
        self.pages.extend(run.slot, run.tokens)

    def _page(self, page: int) -> list[TokenId]:
        return self._written.setdefault(page, [-1] * self.pages.page_tokens)

    def _copy(self, source: int, destination: int, count: int) -> None:
        self._page(destination)[:count] = self._page(source)[:count]
