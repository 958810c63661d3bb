"""Attention of a pass's rows over their sessions' caches, in shapes that do not change a row's bits.

Rows of a run are cut into blocks of ``block`` query rows; the G query heads that share a key head are folded into the
rows, so that a block is one [block * G, D] matrix for each key head. The length of the keys is rounded up, and what a
row must not see is masked. A sum over 256 keys may differ in its last bits from the same sum over 384 of which 128 are
masked; so a run is cut where the rounded length grows, and a row always sees the length that follows from its own
position, however many rows come with it. That its place in the block does not matter either is proven when the model is
loaded (:mod:`foredraft_cloud.proof`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cache import CacheSlot

__all__ = ["KEY_STEP", "AttentionShape", "Piece", "Plan", "attend", "cut", "plan"]

KEY_STEP = 512
"""Keys the flash kernel of torch for CPUs takes at a time (``kvSplitSize`` in FlashAttentionKernel.cpp)."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """The shapes in which attention is computed."""

    block: int
    """Query rows computed together."""
    round_keys: int
    """Number of keys is a multiple of this; no piece reaches across one."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring tokens of one session: rows [first, first + count) of a pass's block, from ``position`` on."""

    slot: CacheSlot
    first: int
    count: int
    position: int


@dataclass(frozen=True, slots=True)
class _Reach:
    """What one piece writes and sees, by layer."""

    own: tuple[Tensor, ...]  # [2, KV, count, D] where its keys and values go
    keys: tuple[Tensor, ...]  # [blocks, KV, keys, D]
    values: tuple[Tensor, ...]
    mask: Tensor  # [blocks, 1, block * G, keys] 0 or -inf


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a pass's attention that is the same in every layer."""

    shape: AttentionShape
    reaches: tuple[_Reach, ...]
    counts: tuple[int, ...]
    """Rows of each piece, and at last the rows that belong to none."""
    blocks: tuple[int, ...]
    """Blocks of each piece."""
    gather: Tensor | None
    """[blocks * block] row of each query row, where the rows do not already lie in whole blocks."""
    scatter: Tensor | None
    """[R] the query row of each row."""


def cut(slot: CacheSlot, first: int, count: int, position: int, shape: AttentionShape) -> Iterator[Piece]:
    """The pieces of ``count`` rows from row ``first`` on, which stand at ``position`` and after."""
    while count:
        some = min(count, shape.round_keys - position % shape.round_keys)
        yield Piece(slot, first, some, position)
        first, count, position = first + some, count - some, position + some


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
    used = sum(piece.count for piece in pieces)
    reaches: list[_Reach] = []
    all_blocks: list[int] = []
    gather: list[Tensor] = []
    scatter: list[Tensor] = []
    for piece in pieces:
        blocks = rows // block if alone else -(-piece.count // block)
        # Rows that only fill a block look where the last real one does: a row that sees nothing would be 0/0.
        offsets = torch.arange(blocks * block).clamp_(max=piece.count - 1)
        end = piece.position + piece.count
        seen = -(-end // shape.round_keys) * shape.round_keys
        keys, values = piece.slot.rows[:, :, None, :, :seen].expand(-1, -1, blocks, -1, -1, -1).unbind(1)
        own = piece.slot.rows[:, :, :, piece.position : end]
        mask = _mask(offsets + piece.position, seen, window, dtype)
        mask = mask.view(blocks, 1, block, 1, seen).expand(-1, -1, -1, group, -1).reshape(blocks, 1, -1, seen)
        reaches.append(_Reach(own.unbind(0), keys.unbind(0), values.unbind(0), mask))
        scatter.append(torch.arange(piece.count) + sum(all_blocks) * block)
        gather.append(offsets + piece.first)
        all_blocks.append(blocks)
    filler = torch.zeros(rows - used, dtype=torch.int64)
    return Plan(
        shape,
        tuple(reaches),
        (*(piece.count for piece in pieces), rows - used),
        tuple(all_blocks),
        None if alone else torch.cat(gather),
        None if alone else torch.cat([*scatter, filler]),
    )


def _mask(positions: Tensor, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """[rows, keys]: 0 where a row at its position looks, -inf elsewhere."""
    distance = positions.unsqueeze(1) - torch.arange(keys)
    hidden = distance < 0
    if window is not None:
        hidden |= distance >= window
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)


def attend(plan: Plan, layer: int, queries: Tensor, keys_values: Tensor) -> Tensor:
    """Write the rows' keys and values into their slots and attend.

    Args:
        queries: [R, G*KV, D]; ``keys_values``: [R, 2, KV, D].

    Returns:
        [R, G*KV*D].
    """
    _, heads, dim = queries.shape
    kv_heads = keys_values.shape[2]
    if plan.gather is not None:
        queries = queries.index_select(0, plan.gather)
    queries = queries.reshape(-1, plan.shape.block * heads // kv_heads, kv_heads, dim).transpose(1, 2)
    new = keys_values.permute(1, 2, 0, 3).split(plan.counts, 2)  # each [2, KV, count, D]
    results = []
    for reach, asking, row in zip(plan.reaches, queries.split(plan.blocks), new, strict=False):
        reach.own[layer].copy_(row)
        attended = _flash(asking, reach.keys[layer], reach.values[layer], attn_mask=reach.mask)[0]
        results.append(attended.transpose(1, 2))  # [blocks, block*G, KV, D], contiguous
    attended = (results[0] if len(results) == 1 else torch.cat(results)).reshape(-1, heads * dim)
    return attended if plan.scatter is None else attended.index_select(0, plan.scatter)
