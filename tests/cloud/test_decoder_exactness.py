"""The law for the arithmetic: a row's bits depend on the text before it and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from decoder_models import MODELS, scores, tiny_model

from foredraft_cloud.decoder import DecoderTarget, load_target
from foredraft_cloud.target import Run
from foredraft_shared.kernels.library import library

CASES = [
    ("llama", "float32", 1, "torch"),
    ("llama", "float32", 2, "torch"),
    ("llama", "bfloat16", 1, "torch"),
    ("llama", "bfloat16", 2, "torch"),
    ("llama", "bfloat16", 1, "compiled"),
    ("llama", "bfloat16", 2, "compiled"),
    ("mistral-window", "bfloat16", 1, "torch"),
    ("mistral-window", "bfloat16", 1, "compiled"),
    ("llama", "w8a8", 2, "torch"),
    ("llama", "w8a8", 1, "compiled"),
    ("llama", "w8a8", 2, "compiled"),
    ("qwen3", "float32", 1, "torch"),
    ("qwen3", "bfloat16", 2, "torch"),
    ("qwen3", "bfloat16", 2, "compiled"),
    ("qwen3", "w8a8", 1, "compiled"),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def target(request: pytest.FixtureRequest) -> Iterator[DecoderTarget]:
    name, dtype, threads, kernels = request.param
    if kernels == "compiled" and library() is None:
        pytest.skip("no compiled kernels on this machine")
    before = torch.get_num_threads()
    yield load_target(
        tiny_model(name), dtype=dtype, exits=(1,), threads=threads, slots=12, compiled=kernels == "compiled"
    )
    torch.set_num_threads(before)


def text(length: int, seed: int = 0) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, 320, (length,), generator=generator).tolist())


def feed(target: DecoderTarget, tokens: tuple[int, ...], cuts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of every position, [tokens, V], at the exit and at full depth, when the text comes in pieces of ``cuts``."""
    slot = target.open()
    early: list[torch.Tensor] = []
    final: list[torch.Tensor] = []
    at = 0
    for count in cuts:
        piece = tokens[at : at + count]
        forward = target.verify([Run(slot, piece, len(piece))])
        for collected in (early, final):
            collected.append(scores(forward.step().logits[0]))
        at += count
    assert at == len(tokens)
    target.release(slot)
    return torch.cat(early), torch.cat(final)


@pytest.mark.parametrize(
    "cuts",
    [[1] * 150, [9] * 16 + [6], [64, 64, 22], [3, 100, 1, 1, 45], [127, 2, 21], [149, 1]],
    ids=["one by one", "rounds", "blocks", "mixed", "across a step", "last alone"],
)
def test_division_into_passes(target: DecoderTarget, cuts: list[int]) -> None:
    tokens = text(150)
    for whole, parts in zip(feed(target, tokens, [150]), feed(target, tokens, cuts), strict=True):
        assert torch.equal(whole, parts)


def test_long_text_in_one_go_and_one_by_one(target: DecoderTarget) -> None:
    tokens = text(700)
    expected = feed(target, tokens, [700])
    actual = feed(target, tokens, [380, *[1] * 10, 110, *[1] * 20, 180])
    for whole, parts in zip(expected, actual, strict=True):
        assert torch.equal(whole, parts)


def test_company_in_the_batch(target: DecoderTarget) -> None:
    """Sessions of different lengths, rounds of different sizes, each in another place of the batch."""
    lengths = [1, 5, 126, 127, 40, 300, 64, 65]
    drafts = [1, 9, 4, 5, 30, 2, 17, 8]
    texts = [text(length + draft, seed) for seed, (length, draft) in enumerate(zip(lengths, drafts, strict=True))]
    expected = [feed(target, tokens, [len(tokens)])[1] for tokens in texts]
    for turn in range(4):
        order = [(index * 3 + turn) % len(texts) for index in range(len(texts))][: len(texts) - turn]
        slots = [target.open() for _ in order]
        for slot, index in zip(slots, order, strict=True):
            target.verify([Run(slot, texts[index][: lengths[index]], 0)], exits=False).step()
        batch = [
            Run(slot, texts[index][lengths[index] :], drafts[index]) for slot, index in zip(slots, order, strict=True)
        ]
        view = target.verify(batch, exits=False).step()
        for index, logits, slot in zip(order, view.logits, slots, strict=True):
            assert torch.equal(scores(logits), expected[index][lengths[index] :])
            target.release(slot)


def test_rewind_leaves_no_trace(target: DecoderTarget) -> None:
    tokens = text(200)
    expected = feed(target, tokens, [200])[1]
    slot = target.open()
    target.verify([Run(slot, tokens[:100], 0)]).step()
    target.verify([Run(slot, tokens[:100], 0)], exits=False).step()
    assert slot.length == 100  # the first pass was given up at its exit: nothing of it counts
    for wrong in (text(90, 5), text(1, 6), text(300, 7)):
        target.verify([Run(slot, wrong, len(wrong))], exits=False).step()
        assert slot.length == 100 + len(wrong)
        target.keep(slot, 100)
    target.keep(slot, 60)
    (logits,) = target.verify([Run(slot, tokens[60:], 140)], exits=False).step().logits
    assert torch.equal(scores(logits), expected[60:])


@pytest.mark.parametrize("kept", [[9, 1, 0, 40], [3, 30, 5, 0], [0, 0, 0, 0], [9, 30, 5, 69]])
def test_rows_dropped_at_an_exit_leave_the_others_alone(target: DecoderTarget, kept: list[int]) -> None:
    lengths, drafts = [20, 126, 300, 0], [9, 30, 5, 70]
    texts = [text(length + draft, seed) for seed, (length, draft) in enumerate(zip(lengths, drafts, strict=True))]
    expected = [feed(target, tokens, [len(tokens)])[1] for tokens in texts]
    slots = [target.open() for _ in texts]
    for slot, tokens, length in zip(slots, texts, lengths, strict=True):
        if length:
            target.verify([Run(slot, tokens[:length], 0)], exits=False).step()
    batch = [
        Run(slot, tokens[length:], draft)
        for slot, tokens, length, draft in zip(slots, texts, lengths, drafts, strict=True)
    ]
    forward = target.verify(batch)
    forward.step([False] * 4)
    forward.narrow([min(count, draft) for count, draft in zip(kept, drafts, strict=True)])
    view = forward.step()
    for slot, tokens, length, count, logits, whole in zip(
        slots, texts, lengths, kept, view.logits, expected, strict=True
    ):
        assert slot.length == length + count
        assert (logits is None) == (count == 0)
        if count:
            assert torch.equal(scores(logits), whole[length : length + count])
        rest = tokens[slot.length :]
        if rest:  # and what was dropped is computed later, as if nothing had been
            (later,) = target.verify([Run(slot, rest, len(rest))], exits=False).step().logits
            assert torch.equal(scores(later), whole[length + count :])
        target.release(slot)


def test_used_slot_is_as_good_as_new(target: DecoderTarget) -> None:
    tokens = text(50)
    expected = feed(target, tokens, [50])
    feed(target, text(900, 3), [900])
    for new, used in zip(expected, feed(target, tokens, [50]), strict=True):
        assert torch.equal(new, used)


def test_every_family_is_listed() -> None:
    assert {"llama", "mistral", "qwen2", "qwen3"} <= {name.split("-")[0] for name in MODELS}
