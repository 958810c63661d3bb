"""The figures, against cases that were worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foredraft_bench.metrics import Answer, Stopwatch, add_up, percentile


def answer(
    *arrived_ms: float, accepted: int = 0, rounds: int = 0, passes: int = 0, up: int = 0, down: int = 0
) -> Answer:
    tokens = tuple(range(len(arrived_ms)))
    return Answer(
        tokens, arrived_ms, accepted=accepted, draft_rounds=rounds, cloud_passes=passes, bytes_up=up, bytes_down=down
    )


def test_one_answer_of_two_commits() -> None:
    # A first token at 100; three more in one commit at 130; two in one at 190.
    figures = add_up([answer(100, 130, 130, 130, 190, 190, accepted=3, rounds=3, passes=3, up=40, down=50)])
    assert figures.ttft_ms == 100
    assert figures.ms_per_token == 90 / 5
    assert figures.p50_gap_ms == 0  # gaps 30 0 0 60 0
    assert figures.p95_gap_ms == pytest.approx(30 + 0.8 * 30)  # place 3.8 of 0 0 0 30 60
    assert figures.max_gap_ms == 60
    assert figures.accepted_per_round == 1
    assert (figures.bytes_up_per_token, figures.bytes_down_per_token) == (40 / 6, 50 / 6)
    assert figures.bytes_per_token == 15
    assert figures.cloud_passes_per_token == 0.5
    assert figures.committed == 6


def test_answers_are_pooled_not_averaged() -> None:
    # 10 ms over one gap and 100 ms over four: 110 / 5, and not the mean of 10 and 25.
    figures = add_up([answer(50, 60), answer(70, 95, 120, 145, 170)])
    assert figures.ms_per_token == 22
    assert figures.ttft_ms == 60
    assert figures.committed == 7


def test_the_time_between_two_answers_is_nobodys() -> None:
    assert add_up([answer(1000, 1010), answer(5, 15)]).max_gap_ms == 10


def test_a_single_token_has_no_pace() -> None:
    figures = add_up([answer(42, up=10, down=20, passes=1)])
    assert (figures.ms_per_token, figures.p95_gap_ms) == (None, None)
    assert (figures.ttft_ms, figures.bytes_per_token, figures.accepted_per_round) == (42, 30, 0)


def test_no_answers_at_all() -> None:
    figures = add_up([])
    assert (figures.ms_per_token, figures.ttft_ms, figures.bytes_per_token, figures.committed) == (None, None, None, 0)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_percentile_is_numpys(values: list[float], share: float) -> None:
    assert percentile(values, share) == pytest.approx(float(np.quantile(values, share)))


def test_tokens_of_a_commit_share_its_first_instant() -> None:
    watch = Stopwatch()
    watch.committed(2)
    assert [watch.token(10.0), watch.token(11.5)] == [10.0, 10.0]
    watch.committed(0)  # a chained round that came to nothing
    watch.committed(1)
    assert watch.token(20.0) == 20.0
    watch.committed(3)
    assert [watch.token(31.0), watch.token(32.0), watch.token(33.0)] == [31.0, 31.0, 31.0]
    assert watch.arrived_ms == [10.0, 10.0, 20.0, 31.0, 31.0, 31.0]


def test_tokens_nobody_announced_come_one_by_one() -> None:
    watch = Stopwatch()
    assert [watch.token(1.0), watch.token(2.0)] == [1.0, 2.0]
