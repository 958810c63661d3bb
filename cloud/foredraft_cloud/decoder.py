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
from foredraft_shared.messages import Position
from foredraft_shared.models.config import ModelConfig

from .attention import KEY_STEP, Piece, Plan, attend, cut, plan
from .cache import Cache, CacheSlot
from .exit_heads import ExitHead, RunLogits, UntrainedHead
from .proof import Shapes, prove
from .target import ExitView, Logits, Run, Slot
from .transformer import Transformer, Weights

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
            hidden = block.hidden
            for index in range(self._layer, layer):
                weights = transformer.layers[index]
                attended = attend(block.plan, index, *transformer.project(weights, hidden, block.turns))
                hidden = transformer.finish(weights, hidden, attended)
        self._layer = layer
        final = not self._exits
        logits = self._look(layer, [final or wanted is None or wanted[index] for index in range(len(self._batch))])
        if final:
            for run in self._batch:
                assert isinstance(run.slot, CacheSlot)
                run.slot.length += len(run.tokens)
            self._blocks.clear()
        return ExitView(layer, final, logits)

    def _lay_out(self) -> None:
        """Cut the runs into blocks."""
        target = self._target
        most = target.ladder[-1]
        blocks = [_Pieces()]
        for run in self._batch:
            slot = run.slot
            assert isinstance(slot, CacheSlot)
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
                block.pieces.extend(cut(slot, first, count, slot.length + fed, target.attention))
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
        hidden = self._blocks[0].hidden if len(self._blocks) == 1 else torch.cat([b.hidden for b in self._blocks])
        seen: list[tuple[Logits, int]] = []
        most = target.ladder[-1]
        for start in range(0, len(rows), most):
            some = rows[start : start + most]
            padded = some + some[:1] * (target.rung(len(some)) - len(some))
            logits = target.heads[layer](hidden.index_select(0, torch.tensor(padded)))
            seen.extend((logits, row) for row in range(len(some)))
        ends = [0, *accumulate(map(len, asked))]
        return tuple(RunLogits(seen[start:end]) if end > start else None for start, end in pairwise(ends))


class DecoderTarget:
    """See :class:`foredraft_cloud.target.Target`.

    Args:
        exits: layers, ascending; full depth is added where it is missing.
        heads: a trained head by layer; the others get the final norm and head.
        shapes: what :func:`foredraft_cloud.proof.prove` found for this transformer.
    """

    def __init__(
        self,
        transformer: Transformer,
        *,
        exits: Sequence[int] = (),
        heads: Mapping[int, ExitHead] | None = None,
        context: int,
        slots: int,
        shapes: Shapes,
    ) -> None:
        self.transformer = transformer
        self.config: ModelConfig = transformer.config
        depth = self.config.layers
        if any(not 0 < layer <= depth for layer in exits):
            raise UsageError(f"exits {list(exits)} must lie between 1 and {depth}, the model's layers.")
        self.exits = tuple(sorted({*exits, depth}))
        self.vocabulary = self.config.vocabulary
        self.context = context
        self.ladder = shapes.ladder
        self.attention = shapes.attention
        untrained = UntrainedHead(transformer)
        self.heads: dict[int, ExitHead] = {layer: (heads or {}).get(layer, untrained) for layer in self.exits}
        self.heads[depth] = untrained
        self._cache = Cache(self.config, transformer.dtype, -(-context // KEY_STEP) * KEY_STEP, slots)

    def rung(self, rows: int) -> int:
        """The least proven number of rows that holds ``rows``."""
        return next(rung for rung in self.ladder if rung >= rows)

    def open(self) -> CacheSlot:
        return self._cache.open()

    def release(self, slot: Slot) -> None:
        assert isinstance(slot, CacheSlot)
        self._cache.release(slot)

    def verify(self, batch: Sequence[Run], *, exits: bool = True) -> DecoderPass:
        assert batch, "a pass needs at least one run"
        assert len({id(run.slot) for run in batch}) == len(batch), "a slot may stand in a batch once"
        for run in batch:
            assert isinstance(run.slot, CacheSlot)
            assert run.slot.open, "the slot was released"
            assert run.tokens, "a run feeds at least one token"
            assert 0 <= run.scored <= len(run.tokens)
            assert run.slot.length + len(run.tokens) <= self.context, "the run goes beyond the context"
        return DecoderPass(self, batch, self.exits if exits else self.exits[-1:])

    def keep(self, slot: Slot, length: Position) -> None:
        assert isinstance(slot, CacheSlot)
        assert 0 <= length <= slot.length
        slot.length = length


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
    exits: Sequence[int] = (),
    heads: Mapping[int, ExitHead] | None = None,
    context: int | None = None,
    slots: int = 16,
    threads: int | None = None,
) -> DecoderTarget:
    """Make a target of a model.

    Args:
        dtype: ``float32`` or ``bfloat16``.
        context: most tokens of a session; the model's own by default, at most 8192.
        slots: most sessions at a time.
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
    return DecoderTarget(transformer, exits=exits, heads=heads, context=context, slots=slots, shapes=prove(transformer))
