"""Attention of a pass's rows over their sessions' pages, in shapes that do not change a row's bits.

Rows of a run are cut into blocks of ``block`` query rows; the G query heads that share a key head are folded into the
rows, so that a block is one [block * G, D] matrix for each key head. The length of the keys is rounded up, and what a
row must not see is masked. A sum over 256 keys may differ in its last bits from the same sum over 384 of which 128 are
masked; so a run is cut where the rounded length grows, and a row always sees the length that follows from its own
position, however many rows come with it.

Pieces of all sessions with the same number of keys and of blocks are computed together, a session being an entry of the
batch: their keys are gathered from the pages by one copy, and the kernel is called once for each block instead of once for
each session. That neither a row's place in the block nor who else is in the batch matters is proven when the model is
loaded (:mod:`foredraft_cloud.proof`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cache import PAGE_TOKENS

__all__ = ["KEY_STEP", "AttentionShape", "Piece", "Plan", "attend", "cut", "plan"]

KEY_STEP = 512
"""Keys the flash kernel of torch for CPUs takes at a time (``kvSplitSize`` in FlashAttentionKernel.cpp)."""

_WORTH_PRODUCTS = 4
"""Texts; for one the kernel is quicker."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """The shapes in which attention is computed."""

    block: int
    """Query rows computed together."""
    round_keys: int
    """Number of keys is a multiple of this; no piece reaches across one."""
    products: bool = False
    """Many texts by matrix products in place of the flash kernel: a third of its time for few rows of each; not proven."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring tokens of one session: rows [first, first + count) of a pass's block, from ``position`` on."""

    pages: Sequence[int]
    """Of the session, from its first token on."""
    first: int
    count: int
    position: int


@dataclass(frozen=True, slots=True)
class _Group:
    """Pieces that are computed together: N of them, B blocks each."""

    pages: Tensor  # [N * pages] of each piece
    masks: tuple[Tensor, ...]  # B times [N, 1, block * G, keys] 0 or -inf


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a pass's attention that is the same in every layer."""

    shape: AttentionShape
    written: Tensor
    """[rows in use] where each row's keys and values go, among all the arena's rows."""
    gather: Tensor
    """[blocks * block] the row of each query row: group by group, in them block by block, in them piece by piece."""
    scatter: Tensor
    """[R] the query row of each row."""
    groups: tuple[_Group, ...]


def cut(pages: Sequence[int], first: int, count: int, position: int, shape: AttentionShape) -> Iterator[Piece]:
    """The pieces of ``count`` rows from row ``first`` on, which stand at ``position`` and after."""
    while count:
        some = min(count, shape.round_keys - position % shape.round_keys)
        yield Piece(pages, first, some, position)
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
    alike: dict[tuple[int, int], list[Piece]] = defaultdict(list)
    written: list[int] = []
    for piece in pieces:
        keys = -(-(piece.position + piece.count) // shape.round_keys) * shape.round_keys
        alike[keys, -(-piece.count // block)].append(piece)
        written += (
            piece.pages[position // PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS
            for position in range(piece.position, piece.position + piece.count)
        )
    groups: list[_Group] = []
    gather: list[int] = []
    scatter = [0] * rows
    for (keys, blocks), members in alike.items():
        masks: list[Tensor] = []
        for at in range(0, blocks * block, block):
            positions: list[int] = []
            for piece in members:
                for offset in range(at, at + block):
                    # Rows that only fill a block look where the last real one does: a row that sees nothing would be 0/0.
                    row = min(offset, piece.count - 1)
                    if row == offset:
                        scatter[piece.first + row] = len(gather)
                    gather.append(piece.first + row)
                    positions.append(piece.position + row)
            mask = _mask(torch.tensor(positions), keys, window, dtype).view(len(members), 1, block, 1, keys)
            masks.append(mask.expand(-1, -1, -1, group, -1).reshape(len(members), 1, -1, keys))
        count = keys // PAGE_TOKENS
        # Where there are fewer pages than keys, any finite numbers do: the mask hides them.
        pages = [[*piece.pages[:count], *[piece.pages[0]] * (count - len(piece.pages))] for piece in members]
        groups.append(_Group(torch.tensor(pages).flatten(), tuple(masks)))
    return Plan(shape, torch.tensor(written), torch.tensor(gather), torch.tensor(scatter), tuple(groups))


def _mask(positions: Tensor, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """[rows, keys]: 0 where a row at its position looks, -inf elsewhere."""
    distance = positions.unsqueeze(1) - torch.arange(keys)
    hidden = distance < 0
    if window is not None:
        hidden |= distance >= window
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)


def attend(plan: Plan, arena: Tensor, queries: Tensor, keys_values: Tensor) -> Tensor:
    """Write the rows' keys and values into their pages and attend.

    Args:
        arena: [2, KV, pages, PAGE_TOKENS, D] of one layer; written to.
        queries: [R, G*KV, D].
        keys_values: [R, 2, KV, D].

    Returns:
        [R, G*KV*D].
    """
    _, heads, dim = queries.shape
    kv_heads = keys_values.shape[2]
    new = keys_values[: len(plan.written)].permute(1, 2, 0, 3)
    arena.view(2, kv_heads, -1, dim).index_copy_(2, plan.written, new)
    asking = queries.index_select(0, plan.gather)
    asking = asking.view(-1, plan.shape.block * heads // kv_heads, kv_heads, dim).transpose(1, 2)
    results = []
    at = 0
    for group in plan.groups:
        members = group.masks[0].shape[0]
        seen = arena.index_select(2, group.pages).view(2, kv_heads, members, -1, dim)
        keys, values = seen.transpose(1, 2).unbind(0)  # each [N, KV, keys, D]
        for mask in group.masks:
            some = asking[at : at + members]
            attended = (
                _products(some, keys, values, mask)
                if plan.shape.products and members >= _WORTH_PRODUCTS
                else _flash(some, keys, values, attn_mask=mask)[0]
            )
            results.append(attended.transpose(1, 2))  # [N, block*G, KV, D], contiguous
            at += members
    attended = (results[0] if len(results) == 1 else torch.cat(results)).reshape(-1, heads * dim)
    return attended.index_select(0, plan.scatter)


def _products(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """What the flash kernel computes, in another order: [N, KV, rows, D]."""
    # By key head, as they lie in the pages: the products copy what does not lie so.
    queries, keys, values, mask = (each.transpose(0, 1) for each in (queries, keys, values, mask))
    scores = torch.matmul(queries * queries.shape[-1] ** -0.5, keys.transpose(-1, -2))
    return torch.matmul(torch.softmax(scores + mask, -1), values).transpose(0, 1)
