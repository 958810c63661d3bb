"""The torch target: passes over blocks of rows, stepped exit by exit.

A pass lays the tokens of its runs, one after another, into *blocks* of at most ``ladder[-1]`` rows and pads each block to
the next proven number of rows. A step takes every block through the layers up to the next exit, first to last: a long
prompt is several blocks, and the keys that a later one needs have been written by the earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor

from foredraft_shared.errors import UsageError
from foredraft_shared.models.artifacts import Artifact
from foredraft_shared.models.config import ModelConfig

from .attention import Piece, Plan, attend, cut, plan
from .cache import PAGE_TOKENS, Cache, bytes_per_token
from .exit_heads import ExitHead, RunLogits, UntrainedHead
from .memory import suggested_cache_bytes
from .pages import PagedTarget
from .proof import Shapes, prove
from .target import ExitView, Logits, Run
from .trained_heads import TrainedHead, layers_of, trained_heads
from .transformer import Layer, Transformer, Weights

__all__ = ["DecoderPass", "DecoderTarget", "LoadedModel", "load_target"]


@dataclass(slots=True)
class _Block:
    """A share of a pass: [R, E] hidden states and what stays the same in every layer."""

    hidden: Tensor  # [R, E] float32
    turns: Tensor  # [R, 1, D/2] complex64
    plan: Plan


@dataclass(frozen=True, slots=True)
class _Pieces:
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)


class DecoderPass:
    """See :class:`foredraft_cloud.target.Pass`."""

    def __init__(self, target: DecoderTarget, batch: Sequence[Run], exits: Sequence[int]) -> None:
        self._target = target
        self._batch = batch
        self._exits = list(exits)
        self._layer = 0
        self._blocks: list[_Block] = []
        # Where each run's scored rows lie: (block, row), in order.
        self._scored: list[list[tuple[int, int]]] = []
        self._lay_out()

    @torch.inference_mode()
    def step(self, wanted: Sequence[bool] | None = None) -> ExitView:
        if not self._exits:
            raise RuntimeError("the pass is already at full depth")
        transformer = self._target.transformer
        layer = self._exits.pop(0)
        for block in self._blocks:
            for index in range(self._layer, layer):
                self._through(block, index, transformer.layers[index], block.hidden)
        self._layer = layer
        final = not self._exits
        logits = self._look(layer, [final or wanted is None or wanted[index] for index in range(len(self._batch))])
        if final:
            for run in self._batch:
                self._target.pages.extend(run.slot, run.tokens)
            self._blocks.clear()
        return ExitView(layer, final, logits)

    def _through(self, block: _Block, index: int, weights: Layer, hidden: Tensor) -> Tensor:
        """``hidden`` after a layer that reads and writes the cache as layer ``index`` does; changed in place."""
        transformer = self._target.transformer
        rows = self._target.cache.rows[index]
        attended = attend(block.plan, rows, *transformer.project(weights, hidden, block.turns))
        return transformer.finish(weights, hidden, attended)

    def _lay_out(self) -> None:
        """Cut the runs into blocks."""
        target = self._target
        most = target.ladder[-1]
        blocks = [_Pieces()]
        for run in self._batch:
            slot = run.slot
            pages = slot.pages
            scored: list[tuple[int, int]] = []
            fed = 0
            while fed < len(run.tokens):
                if len(blocks[-1].tokens) == most:
                    blocks.append(_Pieces())
                block = blocks[-1]
                first = len(block.tokens)
                count = min(most - first, len(run.tokens) - fed)
                block.tokens.extend(run.tokens[fed : fed + count])
                block.positions.extend(range(slot.length + fed, slot.length + fed + count))
                block.pieces.extend(cut(pages, first, count, slot.length + fed, target.attention))
                unscored = max(0, len(run.tokens) - run.scored - fed)
                scored.extend((len(blocks) - 1, first + row) for row in range(unscored, count))
                fed += count
            self._scored.append(scored)
        self._blocks = [self._block(block) for block in blocks]

    @torch.inference_mode()
    def _block(self, pieces: _Pieces) -> _Block:
        target = self._target
        config = target.config
        used = len(pieces.tokens)
        rows = target.rung(used)
        filler = [0] * (rows - used)
        tokens = torch.tensor(pieces.tokens + filler)
        positions = torch.tensor(pieces.positions + filler)
        return _Block(
            hidden=target.transformer.embed(tokens),
            turns=target.transformer.rotations.index_select(0, positions),
            plan=plan(
                pieces.pieces,
                rows,
                target.transformer.group,
                target.attention,
                config.sliding_window,
                target.transformer.dtype,
            ),
        )

    def _look(self, layer: int, wanted: Sequence[bool]) -> tuple[Logits | None, ...]:
        """Score the scored rows of the wanted runs together, in proven numbers of rows."""
        target = self._target
        offsets = [0, *accumulate(block.hidden.shape[0] for block in self._blocks)]
        asked = [scored if want else [] for scored, want in zip(self._scored, wanted, strict=True)]
        rows = [offsets[block] + row for scored in asked for block, row in scored]
        head = target.heads[layer]
        states = [block.hidden for block in self._blocks]
        if head.layer is not None and rows:
            # What it writes into the cache is what the trunk's layer will write there a moment later: they share k and v.
            states = [self._through(block, layer, head.layer, block.hidden.clone()) for block in self._blocks]
        hidden = states[0] if len(states) == 1 else torch.cat(states)
        seen: list[tuple[Logits, int]] = []
        most = target.ladder[-1]
        for start in range(0, len(rows), most):
            some = rows[start : start + most]
            padded = some + some[:1] * (target.rung(len(some)) - len(some))
            logits = head(hidden.index_select(0, torch.tensor(padded)))
            seen.extend((logits, row) for row in range(len(some)))
        ends = [0, *accumulate(map(len, asked))]
        return tuple(RunLogits(seen[start:end]) if end > start else None for start, end in pairwise(ends))


class DecoderTarget(PagedTarget):
    """See :class:`foredraft_cloud.target.Target`.

    Args:
        exits: layers, ascending; full depth is added where it is missing.
        heads: a trained head by layer; the others get the final norm and head.
        context: most tokens of a session; fewer where the cache holds fewer.
        cache_bytes: the hard limit on keys and values, all sessions together.
        shapes: what :func:`foredraft_cloud.proof.prove` found for this transformer.
    """

    def __init__(
        self,
        transformer: Transformer,
        *,
        exits: Sequence[int] = (),
        heads: Mapping[int, ExitHead] | None = None,
        context: int,
        cache_bytes: int,
        shapes: Shapes,
    ) -> None:
        self.transformer = transformer
        self.config: ModelConfig = transformer.config
        depth = self.config.layers
        if any(not 0 < layer <= depth for layer in exits):
            raise UsageError(f"exits {list(exits)} must lie between 1 and {depth}, the model's layers.")
        self.exits = tuple(sorted({*exits, depth}))
        self.vocabulary = self.config.vocabulary
        self.ladder = shapes.ladder
        self.attention = shapes.attention
        untrained = UntrainedHead(transformer)
        self.heads: dict[int, ExitHead] = {layer: (heads or {}).get(layer, untrained) for layer in self.exits}
        self.heads[depth] = untrained
        self.cache = Cache(self.config, transformer.dtype, cache_bytes)
        super().__init__(self.cache.pages)
        room = self.pages.count * PAGE_TOKENS
        if room == 0:
            raise UsageError(
                f"a cache of {cache_bytes / 2**20:.1f} MiB holds nothing; {self.config.layers} layers need at least "
                f"{self.pages.page_bytes / 2**20:.1f} MiB."
            )
        self.context = min(context, room)

    def rung(self, rows: int) -> int:
        """The least proven number of rows that holds ``rows``."""
        return next(rung for rung in self.ladder if rung >= rows)

    def verify(self, batch: Sequence[Run], *, exits: bool = True) -> DecoderPass:
        assert batch, "a pass needs at least one run"
        assert len({id(run.slot) for run in batch}) == len(batch), "a slot may stand in a batch once"
        for run in batch:
            assert run.tokens, "a run feeds at least one token"
            assert 0 <= run.scored <= len(run.tokens)
            assert run.slot.length + len(run.tokens) <= self.context, "the run goes beyond the context"
            self.make_room(run.slot, run.slot.length + len(run.tokens))
        return DecoderPass(self, batch, self.exits if exits else self.exits[-1:])


class LoadedModel(Protocol):
    """What is needed of a model; :class:`foredraft_shared.models.Model` is one."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def weights(self) -> Weights: ...


def load_target(
    model: LoadedModel,
    *,
    dtype: str = "bfloat16",
    exits: Sequence[int] | None = (),
    heads: Artifact | None = None,
    context: int | None = None,
    slots: int = 16,
    cache_bytes: int | None = None,
    threads: int | None = None,
) -> DecoderTarget:
    """Make a target of a model.

    Args:
        dtype: ``float32`` or ``bfloat16``.
        exits: layers that hint; ``None`` for all that ``heads`` has a head for.
        heads: trained exit heads; a layer without one hints by the target's own head, uncalibrated.
        context: most tokens of a session; the model's own by default, at most 8192.
        slots: sessions of that length the cache has room for, as far as a quarter of the memory reaches.
        cache_bytes: the hard limit on the cache, in place of ``slots``.
        threads: CPU threads of torch, for the whole process; unchanged by default.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in kinds:
        raise UsageError(f"dtype {dtype!r} is not supported; use float32 or bfloat16.")
    config = model.config
    context = min(context or min(config.context, 8192), config.context)
    with torch.inference_mode():
        transformer = Transformer(config, model.weights, kinds[dtype], context)
        chosen = () if exits is None else tuple(exits)
        trained: dict[int, TrainedHead] = {}
        if heads is not None:
            chosen = layers_of(heads) if exits is None else chosen
            trained = trained_heads(heads, transformer, model.weights, chosen)
    if cache_bytes is None:
        session = -(-context // PAGE_TOKENS) * PAGE_TOKENS * bytes_per_token(config, kinds[dtype])
        cache_bytes = suggested_cache_bytes(slots * session, session)
    return DecoderTarget(
        transformer, exits=chosen, heads=trained, context=context, cache_bytes=cache_bytes, shapes=prove(transformer)
    )
