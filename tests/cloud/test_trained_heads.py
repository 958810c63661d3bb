"""Heads from a file, as the server runs them: what they are computed in, which rows they look at, and which files are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from decoder_models import scores, tiny_model
from tiny_heads import LAYER, MODEL, TOKENS, foresight, heads

from foredraft_cloud import compiled
from foredraft_cloud.attention import cut
from foredraft_cloud.decoder import load_target
from foredraft_cloud.exit_heads import RunLogits
from foredraft_cloud.lossy import load_lossy_target
from foredraft_cloud.target import Run
from foredraft_cloud.trained_heads import TrainedHead
from foredraft_cloud.transformer import Transformer
from foredraft_shared.errors import ForedraftError, ModelDamaged
from foredraft_shared.kernels.library import library

TEXT = tuple(torch.randint(0, 320, (330,), generator=torch.Generator().manual_seed(3)).tolist())
needs_kernels = pytest.mark.skipif(library() is None, reason="no compiled kernels on this machine")


# --- arithmetic


@needs_kernels
@pytest.mark.parametrize("kind", ["attention", "mlp"])
def test_a_head_is_of_fewer_bits_where_it_hints_and_of_the_targets_arithmetic_where_its_word_is_final(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantised: list[torch.Size] = []
    quantise = compiled.quantise

    def noted(rows: torch.Tensor) -> Any:
        quantised.append(rows.shape)
        return quantise(rows)

    monkeypatch.setattr(compiled, "quantise", noted)
    load_target(tiny_model(MODEL), exits=None, heads=heads(kind), context=64, slots=1)
    assert (len(TOKENS), tiny_model(MODEL).config.hidden) in quantised
    quantised.clear()
    lossy = load_lossy_target(tiny_model(MODEL), LAYER, heads=heads(kind), context=64, slots=1)
    assert not quantised
    (logits,) = lossy.verify([Run(lossy.open(), TEXT[:5], 5)]).step().logits
    assert scores(logits)[:, torch.from_numpy(TOKENS)].isfinite().all()


def test_a_head_whose_word_is_final_has_no_layer_beside_the_targets_last(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = Transformer.make_layer

    def noted(self: Transformer, weights: Any, index: int, pack: Any = None) -> Any:
        made.append(index)
        return make(self, weights, index, pack)

    monkeypatch.setattr(Transformer, "make_layer", noted)
    load_lossy_target(tiny_model(MODEL), LAYER, heads=heads(), dtype="float32", context=64, slots=1)
    assert made == [0, LAYER]


# --- the rows it looks at


class Noted:
    """Counts the blocks that a head's layer is computed for."""

    def __init__(self, look: Callable[..., Any]) -> None:
        self._look = look
        self.blocks: list[int] = []

    def __call__(self, *args: Any) -> Any:
        *_, rows = args
        self.blocks.append(len(rows))
        return self._look(*args)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "w8a8"])
@pytest.mark.parametrize("kernels", [False, True])
def test_a_head_looks_at_the_blocks_of_runs_that_are_asked_and_says_the_same(dtype: str, kernels: bool) -> None:
    target = load_target(
        tiny_model(MODEL), dtype=dtype, exits=None, heads=heads(), context=400, slots=4, compiled=kernels
    )
    head = target.heads[LAYER]
    assert isinstance(head, TrainedHead)
    most = target.ladder[-1]

    def said_of_mine(company: Callable[[Run], list[Run]], asked: list[bool]) -> tuple[torch.Tensor, list[int]]:
        noted = Noted(TrainedHead.look.__get__(head))
        mine = Run(target.open(), TEXT[: most + 10], 3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(head, "look", noted)
            batch = company(mine)
            logits = target.verify(batch).step(asked).logits[batch.index(mine)]
        assert isinstance(logits, RunLogits)
        return torch.stack([view.scores[row] for view, row in logits.rows]), noted.blocks  # type: ignore[attr-defined]

    unscored, unasked = Run(target.open(), TEXT[: 2 * most], 0), Run(target.open(), TEXT[: 2 * most - 10], 4)
    beside, blocks = said_of_mine(lambda mine: [unscored, mine, unasked], [True, True, False])
    assert blocks == [0, 3], "neither the blocks before its first row nor those behind its last"
    alone, blocks = said_of_mine(lambda mine: [mine], [True])
    assert blocks == [0, 3]
    torch.testing.assert_close(beside, alone, atol=1e-3, rtol=1e-3)


@needs_kernels
def test_kernels_are_given_rows_that_there_are_and_in_one_piece() -> None:
    target = load_target(tiny_model(MODEL), exits=None, heads=heads(), context=64, slots=1)
    head, transformer = target.heads[LAYER], target.transformer
    assert isinstance(head, TrainedHead)
    slot = target.open()
    target.make_room(slot, 4)
    hidden, turns = torch.zeros(4, transformer.config.hidden), transformer.rotations[:4]
    plan = transformer.plan(cut(slot.pages, 0, 4, 0, target.attention), 4, target.attention)
    caches = target.cache.rows
    assert len(head.look(LAYER, caches, hidden, turns, plan, [0, 3])) == 2
    strided = torch.zeros(transformer.config.hidden, 4).T
    for damaged in (
        (caches, hidden, turns, plan, [4]),
        (caches, hidden, turns, plan, [-1]),
        (caches, hidden, turns, plan, [0, 1, 2, 3, 3]),
        (caches, strided, turns, plan, [0]),
        (caches, hidden, transformer.rotations[:8:2], plan, [0]),
        (caches.transpose(1, 2), hidden, turns, plan, [0]),
    ):
        with pytest.raises(AssertionError):
            head.look(LAYER, *damaged)  # type: ignore[arg-type]


# --- files that do not fit


@pytest.mark.parametrize(
    ("kind", "name", "shape"),
    [
        ("attention", "norm.weight", (8,)),
        ("attention", "norm.weight", (1, 96)),
        ("attention", "map.weight", (96, 8)),
        ("attention", "map.weight", (8, 96)),
        ("attention", "mlp_norm.weight", (8,)),
        ("attention", "attn_norm.weight", (8,)),
        ("mlp", "norm.weight", (8,)),
        ("mlp", "map.weight", (96, 8)),
        ("mlp", "mlp_norm.weight", (8,)),
        ("mlp", "mlp.up.weight", (160, 8)),
        ("mlp", "mlp.gate.weight", (8, 96)),
        ("mlp", "mlp.down.weight", (96, 8)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tensor_of_another_shape_is_refused(kind: str, name: str, shape: tuple[int, ...], dtype: str) -> None:
    artifact = heads(kind)
    tensors = {**artifact.tensors, f"exits.{LAYER}.{name}": np.ones(shape, np.float32)}
    damaged = dataclasses.replace(artifact, tensors=tensors)
    with pytest.raises(ModelDamaged, match=rf"exits\.safetensors is damaged .*{name}.*; train its exits again\.$"):
        load_target(tiny_model(MODEL), dtype=dtype, exits=None, heads=damaged, context=64, slots=1)


@needs_kernels
def test_kernels_are_given_norms_in_float32() -> None:
    artifact = heads("mlp")
    name = f"exits.{LAYER}.norm.weight"
    integers = np.round(artifact.tensors[name] * 10).astype(np.int32)
    found = []
    for norm in (integers, integers.astype(np.float32)):
        changed = dataclasses.replace(artifact, tensors={**artifact.tensors, name: norm})
        target = load_target(tiny_model(MODEL), exits=None, heads=changed, context=64, slots=1)
        head = target.heads[LAYER]
        assert isinstance(head, TrainedHead)
        with torch.inference_mode():
            found.append(head.scores(torch.ones(4, target.config.hidden)))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"exits": []},
        {"exits": {}},
        {"exits": {str(LAYER): []}},
        {"exits": {str(LAYER): {}}},
        {"exits": {str(LAYER): {"foresight": []}}},
        {"exits": {str(LAYER): {"foresight": "sure"}}},
        {"exits": {str(LAYER): {"foresight": None}}},
        {"exits": {str(LAYER): {"foresight": foresight() | {"beyond": []}}}},
        {"exits": {str(LAYER): {"foresight": foresight() | {"drafted": foresight()["beyond"]}}}},
    ],
)
def test_a_calibration_that_is_none_is_told_of_in_one_line(facts: dict[str, Any]) -> None:
    damaged = dataclasses.replace(heads(), facts=facts)
    with pytest.raises(ForedraftError, match=r"exits\.safetensors .*; (train its exits|calibrate it) again"):
        load_target(tiny_model(MODEL), dtype="float32", exits=None, heads=damaged, context=64, slots=1)
