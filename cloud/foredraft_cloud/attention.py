"""Attention of a pass's rows over their sessions' caches, in shapes that do not change a row's bits.

Rows of a run are cut into blocks of ``block`` query rows; the G query heads that share a key head are folded into the
rows, so that a block is one [block * G, D] matrix for each key head. The length of the keys is rounded up, and what a
row must not see is masked. Which block and which rounding give every row the same bits wherever it stands is proven
when the model is loaded (:mod:`foredraft_cloud.proof`). The kernel walks the keys in steps of 512, of which a wholly
masked one changes nothing; whether a shorter last step may have any multiple of 128 differs between shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cache import CacheSlot

__all__ = ["KEY_STEP", "AttentionShape", "Piece", "Plan", "attend", "plan"]

KEY_STEP = 512
"""Keys the flash kernel of torch for CPUs takes at a time (``kvSplitSize`` in FlashAttentionKernel.cpp)."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """The shapes in which attention is computed."""

    block: int
    """Query rows computed together."""
    round_keys: int
    """Number of keys is a multiple of this."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring tokens of one session within a block of rows: rows [first, first + count) at ``position``..."""

    slot: CacheSlot
    first: int
    count: int
    position: int


@dataclass(frozen=True, slots=True)
class _Reach:
    """What one piece attends to."""

    piece: Piece
    blocks: int
    keys: int
    mask: Tensor  # [blocks, 1, block * G, keys] 0 or -inf


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a pass's attention that is the same in every layer."""

    shape: AttentionShape
    reaches: tuple[_Reach, ...]
    gather: Tensor | None
    """[blocks * block] row of each query row, where the rows do not already lie in whole blocks."""
    scatter: Tensor | None
    """[R] the query row of each row."""


def plan(
    pieces: Sequence[Piece], rows: int, group: int, shape: AttentionShape, window: int | None, dtype: torch.dtype
) -> Plan:
    """Lay out the attention of ``pieces``, which fill the first of ``rows`` rows.

    Args:
        group: query heads that share a key head.
        window: a row sees this many keys, its own included; ``None`` for all.
    """
    block = shape.block
    alone = len(pieces) == 1 and rows % block == 0
    reaches, gather, scatter = [], [], []
    for piece in pieces:
        blocks = rows // block if alone else -(-piece.count // block)
        # Rows that only fill a block look where the last real one does: a row that sees nothing would be 0/0.
        offsets = torch.arange(blocks * block).clamp_(max=piece.count - 1)
        keys = -(-(piece.position + piece.count) // shape.round_keys) * shape.round_keys
        distance = (offsets + piece.position).unsqueeze(1) - torch.arange(keys)  # [rows, keys]
        hidden = distance < 0
        if window is not None:
            hidden |= distance >= window
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)
        mask = mask.view(blocks, 1, block, 1, keys).expand(-1, -1, -1, group, -1).reshape(blocks, 1, -1, keys)
        reaches.append(_Reach(piece, blocks, keys, mask))
        scatter.append(torch.arange(piece.count) + sum(map(len, gather)))
        gather.append(offsets + piece.first)
    if alone:
        return Plan(shape, tuple(reaches), None, None)
    used = sum(piece.count for piece in pieces)
    filler = torch.zeros(rows - used, dtype=torch.int64)
    return Plan(shape, tuple(reaches), torch.cat(gather), torch.cat([*scatter, filler]))


def attend(plan: Plan, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Write the rows' keys and values into their slots and attend.

    Args:
        queries: [R, G*KV, D]; ``keys``, ``values``: [R, KV, D].

    Returns:
        [R, G*KV*D].
    """
    rows, heads, dim = queries.shape
    kv_heads = keys.shape[1]
    if plan.gather is not None:
        queries = queries.index_select(0, plan.gather)
    queries = queries.reshape(-1, plan.shape.block * heads // kv_heads, kv_heads, dim).transpose(1, 2)
    results, done = [], 0
    for reach in plan.reaches:
        piece = reach.piece
        old_keys, old_values = piece.slot.keys[layer], piece.slot.values[layer]  # [KV, capacity, D]
        old_keys[:, piece.position : piece.position + piece.count] = keys[
            piece.first : piece.first + piece.count
        ].transpose(0, 1)
        old_values[:, piece.position : piece.position + piece.count] = values[
            piece.first : piece.first + piece.count
        ].transpose(0, 1)
        results.append(
            _flash(
                queries[done : done + reach.blocks],  # [blocks, KV, block*G, D]
                old_keys[:, : reach.keys].expand(reach.blocks, -1, -1, -1),
                old_values[:, : reach.keys].expand(reach.blocks, -1, -1, -1),
                attn_mask=reach.mask,
            )[0]
            .transpose(1, 2)
            .reshape(-1, heads * dim)  # [blocks * block, G*KV*D]
        )
        done += reach.blocks
    attended = results[0] if len(results) == 1 else torch.cat(results)
    return attended if plan.scatter is None else attended.index_select(0, plan.scatter)
