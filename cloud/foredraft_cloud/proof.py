"""Which shapes give a row the same bits wherever it stands: found out on this machine when a model is loaded.

A matrix product of 1, 2 or 3 rows may add up in another order than one of 16, and with two threads in another still. How
depends on the processor, the library, the weight's shape, the dtype and the number of threads, so it is tried instead of
assumed: random rows go through one layer and the head (all layers have the same shapes) in every number of rows that a
pass may be padded to, in different places and company, and every bit is compared with the largest. What differs is not
used. Padding everything to 16 rows would be safe on all processors seen so far, but makes a plain decode twice as dear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foredraft_shared.errors import ModelUnsupported

from .attention import KEY_STEP, AttentionShape, cut
from .cache import PAGE_TOKENS
from .transformer import Transformer

__all__ = ["CANDIDATE_ROWS", "Shapes", "prove", "prove_attention", "prove_rows"]

CANDIDATE_ROWS = (4, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of rows a pass may be padded to. Fewer than 4 have not been faster anywhere yet; more than 64 gain nothing."""

_ANY_ROWS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
"""The same where every number is a shape of its own (:attr:`Transformer.any_rows`)."""

CANDIDATE_ATTENTION = (
    AttentionShape(4, 128),
    AttentionShape(8, 128),
    AttentionShape(4, KEY_STEP),
    AttentionShape(8, KEY_STEP),
    AttentionShape(16, KEY_STEP),
    AttentionShape(1, 128),
    AttentionShape(1, KEY_STEP),
)
"""Best first. None is safe by construction: even rows that are products of their own (block 1) were seen to differ
between two threads, whose scratch memory is aligned differently."""
_ANY_ATTENTION = (AttentionShape(1, PAGE_TOKENS),)

RowFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Shapes:
    """What was proven."""

    ladder: tuple[int, ...]
    """Numbers of rows, ascending."""
    attention: AttentionShape


@torch.inference_mode()
def prove(transformer: Transformer) -> Shapes:
    """Find the shapes for ``transformer`` with the present number of threads; takes about a second.

    Raises:
        ModelUnsupported: no shape is safe here.
    """
    attention = prove_attention(transformer)
    candidates = _ANY_ROWS if transformer.any_rows else CANDIDATE_ROWS
    ladder = prove_rows(_row_functions(transformer), transformer.config.hidden, candidates)
    if not ladder or attention is None:
        raise ModelUnsupported(
            f"no batch shape gives this model reproducible results in {transformer.dtype} with {torch.get_num_threads()} "
            "threads on this processor; use one thread or the other dtype."
        )
    return Shapes(ladder, attention)


def prove_rows(functions: Sequence[RowFunction], width: int, candidates: Sequence[int]) -> tuple[int, ...]:
    """Those of ``candidates`` (ascending) in which every one of ``functions`` gives each row the same bits.

    Args:
        functions: [R, width] float32 -> [R, anything], row by row.
    """
    most = candidates[-1]
    rows = torch.randn(most, width, generator=torch.Generator().manual_seed(0))
    others = rows.clone()
    others[::2] = rows[::2].flip(1) * 3.0  # every second row has another neighbour on either side
    proven = set(candidates)
    for function in functions:
        expected = function(rows)
        moved, accompanied = function(rows.roll(5, 0)), function(others)
        if not (torch.equal(moved, expected.roll(5, 0)) and torch.equal(accompanied[1::2], expected[1::2])):
            # Not even place and company are free of influence in the largest shape: look for a smaller one.
            return prove_rows(functions, width, candidates[:-1]) if len(candidates) > 1 else ()
        for count in sorted(proven - {most}):
            starts = {0, (most - count) // 2 + 1, most - count}
            if not all(torch.equal(function(rows[at : at + count]), expected[at : at + count]) for at in starts):
                proven.discard(count)
    return tuple(sorted(proven))


def prove_attention(transformer: Transformer) -> AttentionShape | None:
    """The first of the candidate shapes in which a row alone and among others has the same bits, if there is one."""
    shapes = _ANY_ATTENTION if transformer.any_rows else CANDIDATE_ATTENTION
    return next((shape for shape in shapes if _attention_holds(transformer, shape)), None)


def _row_functions(transformer: Transformer) -> tuple[RowFunction, ...]:
    """Every way in which a pass computes on rows, as functions of one [R, E] matrix."""
    layer = transformer.layers[0]
    repeat = -(-transformer.query_width // transformer.config.hidden)

    def project(rows: Tensor) -> Tensor:
        turns = transformer.rotations[7].expand(rows.shape[0], -1, -1)
        return torch.cat([part.flatten(1).float() for part in transformer.project(layer, rows, turns)], dim=1)

    def finish(rows: Tensor) -> Tensor:
        attended = rows.repeat(1, repeat)[:, : transformer.query_width].to(transformer.dtype)
        return transformer.finish(layer, rows.clone(), attended)

    config = transformer.config
    products = (
        (config.hidden, transformer.query_width + 2 * transformer.key_width),
        (transformer.query_width, config.hidden),
        (config.hidden, 2 * config.feed_forward),
        (config.feed_forward, config.hidden),
    )
    # The head is large enough to show any difference in its ordinary results.
    probes = [_cancelling_product(inputs, outputs, transformer) for inputs, outputs in products]
    return (*probes, project, finish, transformer.score)


def _attention_holds(transformer: Transformer, shape: AttentionShape) -> bool:
    """Compare each row computed alone with the same row in a longer run, across every step of the number of keys."""
    config, most = transformer.config, CANDIDATE_ROWS[-1]
    generator = torch.Generator().manual_seed(0)

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(transformer.dtype)

    capacity = 4 * KEY_STEP
    pages = capacity // PAGE_TOKENS
    queries = noise(capacity, config.heads, config.head_dim)
    text = noise(capacity, 2, config.kv_heads, config.head_dim)
    # The text lies in the first half of the arena in an order of its own, that of the company in the second.
    order = (torch.arange(pages) * 5 % pages).tolist()
    company = [[pages + (page + shift) % pages for page in range(pages)] for shift in range(3)]
    stray = noise(2, config.kv_heads, pages, PAGE_TOKENS, config.head_dim)

    def run(arena: Tensor, rows: Tensor, position: int, count: int, others: Sequence[Sequence[int]] = ()) -> Tensor:
        """``count`` rows of the text, in the middle of ``others`` that stand at the same position or a little before."""
        runs = [*others[1:], order, *others[:1]]
        first = len(others[1:]) * count
        used = len(runs) * count
        padded = -(-used // shape.block) * shape.block
        taken = torch.arange(padded).remainder(count) + position
        pieces = [piece for at, each in enumerate(runs) for piece in cut(each, at * count, count, position, shape)]
        layout = transformer.plan(pieces, padded, shape)
        return transformer.attend(layout, arena, queries[taken], rows[taken])[first : first + count]

    for edge in range(128, 3 * KEY_STEP, 128):
        position = edge - 20  # the run reaches beyond the edge, the first rows alone do not
        for rows in (text, _cancelling(text, position)):
            arena = torch.cat([torch.empty_like(stray), stray], 2)
            arena[:, :, order] = rows.view(pages, PAGE_TOKENS, 2, config.kv_heads, -1).permute(2, 3, 0, 1, 4)
            together = run(arena, rows, position, most)
            for row in range(7):
                if not torch.equal(run(arena, rows, position + row, 1)[0], together[row]):
                    return False
            if not torch.equal(run(arena, rows, position + 3, 9), together[3:12]):
                return False
            # Sums that change with the company do so at any length: two lengths of each kind are enough.
            if edge in (128, KEY_STEP, KEY_STEP + 128):
                for count, some in ((1, company[:1]), (9, company)):
                    if not torch.equal(run(arena, rows, position + 3, count, some), together[3 : 3 + count]):
                        return False
    return True


def _cancelling(text: Tensor, length: int) -> Tensor:
    """A text in which each of the first ``length`` keys has a twin with the opposite value, and the rest no value.

    What attention makes of it is zero but for the rounding of its sums, so every change of their order shows. In an
    ordinary bfloat16 result it shows in one number of ten thousand.
    """
    half = length // 2
    result = text.clone()
    result[half : 2 * half] = text[:half]
    result[half : 2 * half, 1].neg_()
    result[2 * half :, 1] = 0
    return result


def _cancelling_product(inputs: int, outputs: int, transformer: Transformer) -> RowFunction:
    """The same for a linear layer: a weight of this shape whose halves cancel on a row whose halves are equal."""
    half = inputs // 2
    some = torch.randn(min(outputs, 256), half, generator=torch.Generator().manual_seed(1))
    weight = torch.zeros(some.shape[0], inputs)
    weight[:, :half], weight[:, half : 2 * half] = some, -some
    product = transformer.pack(weight.repeat(-(-outputs // some.shape[0]), 1)[:outputs])

    def function(rows: Tensor) -> Tensor:
        row_half = rows.repeat(1, -(-half // rows.shape[1]))[:, :half]
        return product(
            torch.cat([row_half, row_half, rows.new_zeros(len(rows), inputs - 2 * half)], 1).to(
                transformer.product_dtype
            )
        )

    return function
