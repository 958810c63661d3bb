"""Hints by confidence."""

from __future__ import annotations

import pytest

from foredraft_bench.comparison.reliability import (
    HintSeen,
    expected_calibration_error,
    precision,
    reliability,
)


def hints(confidence: float, right: int, wrong: int) -> list[HintSeen]:
    return [HintSeen(20, confidence, index < right) for index in range(right + wrong)]


def test_bins_and_the_error_of_a_case_by_hand() -> None:
    seen = [*hints(0.95, 6, 2), *hints(0.5, 1, 1)]
    bins = reliability(seen)
    assert [(each.lower, each.upper, each.count, each.right) for each in bins] == [(0.5, 0.6, 2, 1), (0.9, 1.0, 8, 6)]
    # 2 of 10 at distance 0; 8 of 10 at |0.95 - 0.75|.
    assert expected_calibration_error(bins) == pytest.approx(0.8 * 0.2)
    assert precision(seen) == 0.7


def test_certainty_belongs_to_the_last_bin() -> None:
    (only,) = reliability(hints(1.0, 1, 0))
    assert (only.lower, only.upper, only.precision, only.mean_confidence) == (0.9, 1.0, 1.0, 1.0)


def test_nothing_without_hints() -> None:
    assert (reliability([]), expected_calibration_error([]), precision([])) == ([], None, None)
