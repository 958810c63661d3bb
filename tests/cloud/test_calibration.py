"""Calibration: probabilities that come true as often as they say."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from foredraft_cloud.calibration import (
    Logistic,
    expected_calibration_error,
    fit_isotonic,
    fit_logistic,
    reliability,
)
from foredraft_cloud.foresight import WIDTHS, Foresight, Trust
from foredraft_shared.errors import ModelDamaged, UsageError


def test_the_regression_finds_the_odds_that_made_the_data() -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((20_000, 3)) * [1.0, 5.0, 0.2] + [0.0, 2.0, -1.0]
    odds = 0.8 * features[:, 0] - 0.3 * features[:, 1] + 0.5
    outcomes = generator.random(20_000) < 1 / (1 + np.exp(-odds))
    said = fit_logistic(features, outcomes)(features)
    np.testing.assert_allclose(said, 1 / (1 + np.exp(-odds)), atol=0.05)
    assert expected_calibration_error(reliability(said, outcomes)) < 0.02


@pytest.mark.parametrize("outcomes", [[], [True] * 8, [False] * 8])
def test_what_is_all_alike_is_never_certain(outcomes: list[bool]) -> None:
    fit = fit_logistic(np.zeros((len(outcomes), 2)), np.array(outcomes, bool))
    said = float(fit(np.array([3.0, -40.0])))
    assert 0.05 < said < 0.95
    assert (said > 0.5) == (bool(outcomes) and outcomes[0]) or not outcomes


def test_separable_data_do_not_run_away() -> None:
    features = np.linspace(-1, 1, 100)[:, None]
    said = fit_logistic(features, features[:, 0] > 0)(features)
    assert np.isfinite(said).all()
    assert said[0] < 0.1 < 0.9 < said[-1]


def test_the_bend_never_falls_and_mends_overconfidence() -> None:
    generator = np.random.default_rng(1)
    said = generator.random(8000)
    outcomes = generator.random(8000) < 0.5 * said + 0.1
    knots, true = fit_isotonic(said, outcomes)
    assert (np.diff(knots) > 0).all()
    assert (np.diff(true) > 0).all()
    bent = np.interp(said, knots, true)
    before, after = (expected_calibration_error(reliability(each, outcomes)) for each in (said, bent))
    assert after < 0.03 < before
    assert fit_isotonic(said[:20], outcomes[:20])[0].tolist() == [0.0, 1.0], "few predictions bend nothing"


def test_one_row_is_told_what_many_are() -> None:
    generator = np.random.default_rng(2)
    features = generator.standard_normal((3000, 4)) * 3
    outcomes = generator.random(3000) < 1 / (1 + np.exp(-features[:, 0] * features[:, 1]))
    fit = fit_logistic(features, outcomes)
    said, true = fit_isotonic(fit.raw(features), outcomes)
    fit = replace(fit, said=said, true=true)
    rows = np.concatenate([features[:50], np.full((1, 4), 900.0), np.full((1, 4), -900.0)])
    np.testing.assert_allclose([fit.of_one(row.tolist()) for row in rows], fit(rows), atol=1e-9)


def test_the_error_is_the_mean_distance_weighted_by_size() -> None:
    said = np.array([0.95] * 8 + [0.15] * 2)
    outcomes = np.array([True] * 8 + [True, False])
    assert expected_calibration_error(reliability(said, outcomes)) == pytest.approx(0.8 * 0.05 + 0.2 * 0.35)
    assert expected_calibration_error([]) == 0.0


def test_a_regression_survives_json_and_a_broken_one_is_noticed() -> None:
    fit = fit_logistic(np.arange(40.0).reshape(20, 2), np.arange(20) > 9)
    back = Logistic.of(json.loads(json.dumps(fit.facts())), 2)
    row = np.array([3.0, 4.0])
    assert float(back(row)) == pytest.approx(float(fit(row)), abs=1e-3)
    with pytest.raises(ValueError, match="means has 2 numbers, expected 3"):
        Logistic.of(fit.facts(), 3)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("means", [0.0], "means has 1 numbers, expected 2"),
        ("weights", [0.0, 1.0], "weights has 2 numbers, expected 3"),
        ("means", None, "no list of means"),
        ("means", "ab", "no list of means"),
        ("means", [0.0, None], "no number"),
        ("means", [0.0, "1.0"], "no number"),
        ("means", [0.0, True], "no number"),
        ("means", [[0.0], [1.0]], "no number"),
        ("weights", [0.0, math.nan, 0.0], "no number"),
        ("weights", [0.0, math.inf, 0.0], "no number"),
        ("weights", [0.0, 10**400, 0.0], "no number"),
        ("scales", [1.0, 0.0], "scales has a number below"),
        ("scales", [1.0, -1.0], "scales has a number below"),
        ("said", [], "said has 0 numbers, expected some"),
        ("true", [0.0, 0.5, 1.0], "true has 3 numbers, expected 2"),
        ("said", [1.0, 0.0], "said does not rise"),
        ("true", [0.0, 1.1], "true does not rise"),
        ("true", [-0.1, 1.0], "true does not rise"),
    ],
)
def test_what_is_no_regression_is_refused_and_says_why(name: str, value: object, said: str) -> None:
    fit = fit_logistic(np.arange(40.0).reshape(20, 2), np.arange(20) > 9)
    with pytest.raises(ValueError, match=said):
        Logistic.of(fit.facts() | {name: value}, 2)


@pytest.mark.parametrize("name", WIDTHS)
def test_regressions_that_are_all_too_short_are_refused(name: str) -> None:
    short = fit_logistic(np.zeros((0, WIDTHS[name] - 1)), np.zeros(0, np.bool_)).facts()
    whole = {each: fit_logistic(np.zeros((0, width)), np.zeros(0, np.bool_)) for each, width in WIDTHS.items()}
    facts = Foresight(**whole).facts()
    assert Foresight.of(facts).facts() == facts
    with pytest.raises(ModelDamaged, match=f"its calibration of '{name}': means has .* expected {WIDTHS[name]}"):
        Foresight.of(facts | {name: short})
    with pytest.raises(ModelDamaged, match=f"its calibration of '{name}': there is no list of means"):
        Foresight.of({each: fact for each, fact in facts.items() if each != name})
    with pytest.raises(UsageError, match="other features"):
        Foresight.of(facts | {"features": 1})


def test_trust_follows_a_device_and_stays_open_to_change() -> None:
    trust = Trust()
    for _ in range(200):
        trust.learn(4, 4)
    assert 0.99 < trust.share <= 1.0
    trust.learn(4, 0)
    assert trust.share == pytest.approx(1.0 - 0.06, abs=0.01), "only the first that failed was judged"
    before = trust.share
    trust.learn(0, 0)
    assert trust.share == before


def test_a_good_draft_and_a_poor_one_are_told_apart_after_a_dozen_tokens() -> None:
    good, poor = Trust(), Trust()
    for _ in range(3):
        good.learn(4, 4)
        poor.learn(4, 1)
    assert good.share > 0.93
    assert poor.share < 0.6
