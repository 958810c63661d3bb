"""The proof of shapes rejects what would break the law, and a target says so when it is full."""

from __future__ import annotations

import pytest
import torch
from decoder_models import tiny_model

from foredraft_cloud.decoder import load_target
from foredraft_cloud.proof import CANDIDATE_ROWS, prove_rows
from foredraft_cloud.target import Run
from foredraft_shared.errors import Overloaded, UsageError


def test_honest_function_keeps_every_candidate() -> None:
    assert prove_rows([lambda rows: rows * 3.0], 8, CANDIDATE_ROWS) == CANDIDATE_ROWS


def test_number_of_rows_that_changes_a_bit_is_dropped() -> None:
    def odd(rows: torch.Tensor) -> torch.Tensor:
        return rows * (1.0 + 2.0**-23 if len(rows) in (4, 24) else 1.0)

    assert prove_rows([lambda rows: rows, odd], 8, CANDIDATE_ROWS) == (8, 12, 16, 32, 48, 64)


def test_shape_in_which_the_place_matters_is_dropped() -> None:
    def by_place(rows: torch.Tensor) -> torch.Tensor:
        result = rows.clone()
        result[32:] += 1e-3
        return result

    assert prove_rows([by_place], 8, CANDIDATE_ROWS) == (4, 8, 12, 16, 24, 32)


def test_company_that_changes_a_row_leaves_nothing() -> None:
    assert prove_rows([lambda rows: rows - rows.mean()], 8, CANDIDATE_ROWS) == ()


def test_a_full_cache_is_overloaded_until_a_slot_is_released() -> None:
    target = load_target(tiny_model("llama"), dtype="float32", context=64, slots=1)
    first, second = target.open(), target.open()
    target.verify([Run(first, (1, 2, 3), 0)], exits=False).step()
    with pytest.raises(Overloaded, match="cache-mib"):
        target.verify([Run(second, (1,), 0)])
    target.release(first)
    target.verify([Run(second, (1,), 0)], exits=False).step()
    assert second.length == 1


def test_a_cache_too_small_for_anything_is_a_usage_error_and_a_small_one_bounds_the_context() -> None:
    with pytest.raises(UsageError, match="at least"):
        load_target(tiny_model("llama"), dtype="float32", cache_bytes=1000)
    page = load_target(tiny_model("llama"), dtype="float32", slots=1).pages.page_bytes
    target = load_target(tiny_model("llama"), dtype="float32", cache_bytes=3 * page + 1)
    assert (target.context, target.pages.use.limit_bytes) == (192, 3 * page)


def test_wrong_exits_and_dtype_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="exits"):
        load_target(tiny_model("llama"), exits=(0,))
    with pytest.raises(UsageError, match="bfloat16, float32 or w8a8"):
        load_target(tiny_model("llama"), dtype="float16")


def test_unwanted_runs_are_not_scored_at_an_exit() -> None:
    target = load_target(tiny_model("llama"), dtype="float32", exits=(1, 2))
    forward = target.verify(
        [Run(target.open(), (1, 2, 3), 2), Run(target.open(), (4,), 0), Run(target.open(), (5,), 1)]
    )
    first = forward.step([False, True, True])
    assert (first.layer, first.final) == (1, False)
    assert [logits and len(logits) for logits in first.logits] == [None, None, 1]
    forward.step()
    last = forward.step([False, False, False])
    assert (last.layer, last.final) == (3, True)
    assert [logits and len(logits) for logits in last.logits] == [2, None, 1]
    with pytest.raises(RuntimeError, match="full depth"):
        forward.step()
