"""Etalon's definitions, against cases that were worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foredraft_bench.comparison.fluidity import fluid_token_ms, fluid_tokens_per_s, fluidity_index


def test_a_steady_text_in_time_is_fluid() -> None:
    assert fluidity_index([20.0, 20.0, 20.0], 20.0) == 1.0


def test_a_burst_pays_for_the_pause_after_it() -> None:
    # 30 is late by one deadline of 20. Two zeros bank 40, so that 60 is just in time; then another zero.
    assert fluidity_index([30.0, 0.0, 0.0, 60.0, 0.0], 20.0) == 4 / 5


def test_a_long_pause_misses_as_many_deadlines_as_fit_into_it() -> None:
    # 95 without slack misses four of 20 each; the token after it is in time.
    assert fluidity_index([95.0, 10.0], 20.0) == 1 / 5


def test_a_miss_takes_the_slack_with_it() -> None:
    # 5 banks 15. 70 - 15 = 55 misses two, and the slack is gone: 25 misses one more.
    assert fluidity_index([5.0, 70.0, 25.0], 20.0) == 1 / 4


def test_the_first_token_has_a_deadline_of_its_own() -> None:
    # 250 after 100 allowed: 1 + floor(150 / 50) = 4 missed; then two in time.
    assert fluidity_index([50.0, 50.0], 50.0, first_ms=250.0, first_token_ms=100.0) == 2 / 6
    # 40 banks 60, and so 110 is in time.
    assert fluidity_index([110.0], 50.0, first_ms=40.0, first_token_ms=100.0) == 1.0


def test_no_tokens_miss_nothing() -> None:
    assert fluidity_index([]) == 1.0
    assert fluid_token_ms([]) is None
    assert fluid_tokens_per_s([[], []]) is None


def test_the_pace_of_a_steady_text_is_its_own() -> None:
    assert fluid_token_ms([25.0] * 40) == pytest.approx(25.0, abs=0.11)
    assert fluid_tokens_per_s([[25.0] * 40] * 3) == pytest.approx(40.0, abs=0.2)


def test_bursts_of_four_are_as_fluid_as_their_mean() -> None:
    # One commit of four tokens every 80 ms, by the last of ten commits; the first pause has nothing banked:
    # at 22 ms it misses three of about forty, which is within a tenth.
    gaps = [80.0, 0.0, 0.0, 0.0] * 10
    shortest = fluid_token_ms(gaps)
    assert shortest is not None
    assert 19.0 < shortest < 23.0


def test_the_slowest_text_decides() -> None:
    assert fluid_tokens_per_s([[10.0] * 20, [40.0] * 20]) == pytest.approx(1000 / (10 + 0.99 * 30), rel=0.01)


@given(st.lists(st.floats(0, 500), min_size=1, max_size=40))
def test_at_the_deadline_found_a_tenth_is_missed_at_most(gaps: list[float]) -> None:
    deadline = fluid_token_ms(gaps)
    assert deadline is not None
    assert deadline == 0.0 or 1.0 - fluidity_index(gaps, deadline) <= 0.1
