"""The torch target: passes over blocks of rows, stepped exit by exit.

A pass lays the tokens of its runs, one after another, into *blocks* of at most ``ladder[-1]`` rows and pads each block to
the next proven number of rows. A step takes every block through the layers up to the next exit, first to last: a long
prompt is several blocks, and the keys that a later one needs have been written by the earlier ones.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Protocol

import structlog
import torch
from torch import Tensor

from foredraft_shared.errors import UsageError
from foredraft_shared.kernels.library import library, missing
from foredraft_shared.models.artifacts import Artifact
from foredraft_shared.models.config import ModelConfig

from .arithmetic import check_arithmetic
from .attention import Piece, Plan, cut
from .cache import PAGE_TOKENS, Cache, bytes_per_token
from .compiled import NativeTransformer
from .exit_heads import ExitHead, ManyLogits, RunLogits, UntrainedHead
from .memory import suggested_cache_bytes
from .pages import PagedTarget
from .proof import Shapes, prove
from .smoothing import calibration_tokens, smoothed
from .target import ExitView, Logits, Run
from .trained_heads import TrainedHead, layers_of, trained_heads
from .transformer import Transformer, Weights

__all__ = ["DecoderPass", "DecoderTarget", "LoadedModel", "load_target"]

_log = structlog.get_logger("foredraft.decoder")


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
        self._kept = [len(run.tokens) for run in batch]
        self._blocks: list[_Block] = []
        # Where the first row of each run lies, counted through all blocks; its others follow.
        self._starts: list[int] = []
        self._lay_out(None)

    @torch.inference_mode()
    def step(self, wanted: Sequence[bool] | None = None) -> ExitView:
        if not self._exits:
            raise RuntimeError("the pass is already at full depth")
        transformer = self._target.transformer
        layer = self._exits.pop(0)
        for block in self._blocks:
            caches = self._target.cache.rows[self._layer : layer]
            transformer.through(transformer.layers[self._layer : layer], caches, block.hidden, block.turns, block.plan)
        self._layer = layer
        final = not self._exits
        logits = self._look(layer, [final or wanted is None or wanted[index] for index in range(len(self._batch))])
        if final:
            for run, kept in zip(self._batch, self._kept, strict=True):
                self._target.pages.extend(run.slot, run.tokens[:kept])
            self._blocks.clear()
        return ExitView(layer, final, logits)

    @torch.inference_mode()
    def narrow(self, kept: Sequence[int]) -> None:
        assert self._exits, "the pass is over"
        assert all(0 <= new <= old for new, old in zip(kept, self._kept, strict=True))
        rows = [start + row for start, count in zip(self._starts, kept, strict=True) for row in range(count)]
        self._kept = list(kept)
        hidden = [block.hidden for block in self._blocks]
        if self._target.padded(len(rows)) < sum(map(len, hidden)):  # else it would cost as much as before
            self._lay_out(torch.cat(hidden).index_select(0, torch.tensor(rows, dtype=torch.int64)))

    @torch.inference_mode()
    def _lay_out(self, hidden: Tensor | None) -> None:
        """Cut what is left of the runs into blocks.

        Args:
            hidden: [rows, E] their hidden states, run after run; ``None`` at the beginning.
        """
        target = self._target
        most = target.ladder[-1]
        blocks: list[_Pieces] = []
        self._starts = []
        rows = 0
        for run, kept in zip(self._batch, self._kept, strict=True):
            self._starts.append(rows)
            pages = run.slot.pages
            fed = 0
            while fed < kept:
                if rows % most == 0:
                    blocks.append(_Pieces())
                block = blocks[-1]
                first = len(block.tokens)
                count = min(most - first, kept - fed)
                position = run.slot.length + fed
                block.tokens.extend(run.tokens[fed : fed + count])
                block.positions.extend(range(position, position + count))
                block.pieces.extend(cut(pages, first, count, position, target.attention))
                fed += count
                rows += count
        states = [None] * len(blocks) if hidden is None else hidden.split(most)[: len(blocks)]
        self._blocks = [self._block(block, state) for block, state in zip(blocks, states, strict=True)]

    def _block(self, pieces: _Pieces, hidden: Tensor | None) -> _Block:
        target = self._target
        rows = target.rung(len(pieces.tokens))
        filler = [0] * (rows - len(pieces.tokens))
        positions = torch.tensor(pieces.positions + filler)
        if hidden is None:
            hidden = target.transformer.embed(torch.tensor(pieces.tokens + filler))
        else:
            hidden = torch.cat([hidden, hidden[:1].expand(len(filler), -1)])
        return _Block(
            hidden=hidden,
            turns=target.transformer.rotations.index_select(0, positions),
            plan=target.transformer.plan(pieces.pieces, rows, target.attention),
        )

    def _look(self, layer: int, wanted: Sequence[bool]) -> tuple[Logits | None, ...]:
        """Score the scored rows of the wanted runs together, in proven numbers of rows."""
        target = self._target
        head = target.heads[layer]
        asked: list[list[int]] = []
        for run, kept, start, want in zip(self._batch, self._kept, self._starts, wanted, strict=True):
            unscored = len(run.tokens) - run.scored
            asked.append(list(range(start + unscored, start + kept)) if want else [])
        rows = [row for some in asked for row in some]
        seen: list[tuple[ManyLogits, int]] = []
        most = target.ladder[-1]
        if rows and isinstance(head, TrainedHead) and head.reader.layer is not None:
            # All blocks of an asked run: its scored rows need the keys of those before them.
            runs = [(start, some[-1]) for start, some in zip(self._starts, asked, strict=True) if some]
            for index in sorted({index for first, last in runs for index in range(first // most, last // most + 1)}):
                block = self._blocks[index]
                mine = [row - index * most for row in rows if row // most == index]
                logits: ManyLogits = head.look(layer, target.cache.rows, block.hidden, block.turns, block.plan, mine)
                seen.extend((logits, row) for row in range(len(mine)))
        elif rows:
            states = [block.hidden for block in self._blocks]
            hidden = states[0] if len(states) == 1 else torch.cat(states)
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

    def padded(self, rows: int) -> int:
        """Rows that are computed for ``rows``."""
        most = self.ladder[-1]
        return rows // most * most + (self.rung(rows % most) if rows % most else 0)

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
    compiled: bool | str = True,
) -> DecoderTarget:
    """Make a target of a model.

    Args:
        dtype: one of :data:`foredraft_cloud.arithmetic.ARITHMETICS`.
        exits: layers that hint; ``None`` for all that ``heads`` has a head for.
        heads: trained exit heads; a layer without one hints by the target's own head, uncalibrated.
        context: most tokens of a session; the model's own by default, at most 8192.
        slots: sessions of that length the cache has room for, as far as a quarter of the memory reaches.
        cache_bytes: the hard limit on the cache, in place of ``slots``.
        threads: CPU threads of torch, for the whole process; unchanged by default.
        compiled: compute in our own kernels where they can be had (:mod:`foredraft_shared.kernels`), in torch otherwise; a name
            asks for that set of instructions.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    check_arithmetic(dtype)
    states = torch.float32 if dtype == "float32" else torch.bfloat16
    config = model.config
    context = min(context or min(config.context, 8192), config.context)
    kernels = _kernels(compiled if isinstance(compiled, str) else None) if compiled and dtype != "float32" else None
    with torch.inference_mode():
        quantised = dtype == "w8a8"
        weights = smoothed(config, model.weights, calibration_tokens(model)) if quantised else model.weights
        if kernels is None:
            transformer = Transformer(config, weights, states, context, quantised=quantised)
        else:
            transformer = NativeTransformer(config, weights, context, kernels, quantised=quantised)
        chosen = () if exits is None else tuple(exits)
        trained: dict[int, TrainedHead] = {}
        if heads is not None:
            chosen = layers_of(heads) if exits is None else chosen
            trained = trained_heads(heads, transformer, model.weights, chosen)
    if cache_bytes is None:
        session = -(-context // PAGE_TOKENS) * PAGE_TOKENS * bytes_per_token(config, states)
        cache_bytes = suggested_cache_bytes(slots * session, session)
    return DecoderTarget(
        transformer, exits=chosen, heads=trained, context=context, cache_bytes=cache_bytes, shapes=prove(transformer)
    )


def _kernels(wanted: str | None) -> ctypes.CDLL | None:
    found, lack = library(wanted), missing(wanted)
    if lack is not None:
        tell = _log.warning if lack.cure else _log.info
        tell("passes in torch, slower than in compiled kernels", reason=lack.reason, cure=lack.cure or None)
    return found
