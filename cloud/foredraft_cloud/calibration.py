"""From evidence to probabilities that can be relied on: a small logistic regression, and how to tell whether it is calibrated.

A prediction of 0.9 is *calibrated* if it comes true nine times in ten. The expected calibration error is the mean distance
between what was said and what came true, over groups of predictions of similar confidence, weighted by their size (Naeini,
Cooper, Hauskrecht: "Obtaining well calibrated probabilities using Bayesian binning", 2015); the groups are the points of a
reliability diagram. What a regression still gets wrong is bent straight by isotonic regression (pool adjacent violators).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Logistic",
    "ReliabilityPoint",
    "expected_calibration_error",
    "fit_isotonic",
    "fit_logistic",
    "reliability",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Logistic:
    """A logistic regression on standardised features, and the isotonic bend of what it says."""

    means: Floats  # [features]
    scales: Floats  # [features]
    weights: Floats  # [features + 1], the intercept last
    said: Floats  # [knots] what the regression says, ascending
    true: Floats  # [knots] what that means, never falling
    _plain: tuple[list[float], float, list[float], list[float]] = field(init=False, repr=False, compare=False)

    def __call__(self, features: Floats) -> Floats:
        """[..., features] -> [...] in (0, 1)."""
        bent: Floats = np.interp(self.raw(features), self.said, self.true)
        return bent

    def raw(self, features: Floats) -> Floats:
        """Without the bend."""
        odds = ((features - self.means) / self.scales) @ self.weights[:-1] + self.weights[-1]
        said: Floats = 1.0 / (1.0 + np.exp(-np.clip(odds, -30.0, 30.0)))
        return said

    def of_one(self, features: Sequence[float]) -> float:
        """The same of a single row, in plain numbers: a tenth of the time."""
        slopes, base, said, true = self._plain
        odds = base + sum(map(mul, slopes, features))
        raw = 1.0 / (1.0 + math.exp(-min(max(odds, -30.0), 30.0)))
        above = bisect_right(said, raw)
        if above in (0, len(said)):
            return true[max(above - 1, 0)]
        share = (raw - said[above - 1]) / (said[above] - said[above - 1])
        return true[above - 1] + share * (true[above] - true[above - 1])

    def __post_init__(self) -> None:
        slopes = self.weights[:-1] / self.scales
        base = float(self.weights[-1] - slopes @ self.means)
        object.__setattr__(self, "_plain", (slopes.tolist(), base, self.said.tolist(), self.true.tolist()))

    def facts(self) -> dict[str, list[float]]:
        """As JSON has it."""
        return {name: [float(f"{each:.6g}") for each in getattr(self, name)] for name in _FIELDS}

    @classmethod
    def of(cls, facts: Mapping[str, Any], features: int) -> Logistic:
        """From :meth:`facts`.

        Args:
            features: how many it is asked about.

        Raises:
            ValueError: they are not such facts; says why.
        """
        arrays = {name: _numbers(facts, name) for name in _FIELDS}
        wanted = dict(zip(_FIELDS, (features, features, features + 1, *[len(arrays["said"])] * 2), strict=True))
        for name, array in arrays.items():
            if len(array) != wanted[name] or not wanted[name]:
                raise ValueError(f"{name} has {len(array)} numbers, expected {wanted[name] or 'some'}")
        if arrays["scales"].min() < _LEAST_SCALE:
            raise ValueError(f"scales has a number below {_LEAST_SCALE}")
        for name in ("said", "true"):
            if not 0.0 <= arrays[name][0] <= arrays[name][-1] <= 1.0 or (np.diff(arrays[name]) < 0.0).any():
                raise ValueError(f"{name} does not rise from 0 to 1")
        return cls(**arrays)


_FIELDS = ("means", "scales", "weights", "said", "true")
_LEAST_SCALE = 1e-3
_LARGEST = 1e6
"""Of any number in it, with much room to spare."""


def _numbers(facts: Mapping[str, Any], name: str) -> Floats:
    found = facts.get(name) if isinstance(facts, Mapping) else None
    if not isinstance(found, list):
        raise ValueError(f"there is no list of {name}")
    if not all(type(each) in (int, float) and abs(each) <= _LARGEST for each in found):  # which NaN is not, either
        raise ValueError(f"{name} has what is no number, or none that could be")
    return np.array(found, np.float64)


def fit_logistic(features: Floats, outcomes: NDArray[np.bool_], ridge: float = 1.0, steps: int = 30) -> Logistic:
    """Fit by Newton's method, with a penalty on all weights but the intercept; the bend is left straight.

    Args:
        features: [N, features].
        outcomes: [N]; may be all alike, or empty: then the features are ignored.
    """
    count, width = features.shape
    means = features.mean(0) if count else np.zeros(width)
    scales = features.std(0) if count else np.ones(width)
    scales[scales < _LEAST_SCALE] = 1.0  # a feature that never changed tells nothing, whatever it will be one day
    design = np.column_stack([(features - means) / scales, np.ones(count)])
    penalty = ridge * np.diag([*np.ones(width), 1e-3])
    # Laplace's rule keeps the odds finite where all outcomes are alike.
    share = (outcomes.sum() + 1) / (count + 2)
    weights = np.zeros(width + 1)
    weights[-1] = np.log(share / (1 - share))
    for _ in range(steps if 0 < outcomes.sum() < count else 0):
        said = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -30.0, 30.0)))
        gradient = design.T @ (said - outcomes) + penalty @ weights
        curvature = (design * (said * (1 - said))[:, None]).T @ design + penalty
        change = np.linalg.solve(curvature, gradient)
        weights = weights - change * min(1.0, 5.0 / (np.abs(change).max() + 1e-12))
        if np.abs(change).max() < 1e-6:
            break
    straight = np.array([0.0, 1.0])
    return Logistic(means, scales, weights, straight, straight)


def fit_isotonic(said: Floats, outcomes: NDArray[np.bool_], least: int = 50) -> tuple[Floats, Floats]:
    """The never falling map from ``said`` to outcomes that is nearest in the mean square.

    Args:
        least: predictions a knot stands for, so that few do not bend it.

    Returns:
        Knots: (said, true), ascending; the straight line if there are too few predictions.
    """
    if len(said) < 4 * least:
        return np.array([0.0, 1.0]), np.array([0.0, 1.0])
    order = np.argsort(said, kind="stable")
    bins = np.array_split(order, max(4, min(len(said) // least, 40)))
    pooled: list[tuple[float, float, int]] = []  # mean said, mean outcome, how many
    for members in bins:
        pooled.append((float(said[members].mean()), float(outcomes[members].mean()), len(members)))
        while len(pooled) > 1 and pooled[-2][1] >= pooled[-1][1]:
            (first, low, few), (second, high, many) = pooled[-2:]
            size = few + many
            pooled[-2:] = [((first * few + second * many) / size, (low * few + high * many) / size, size)]
    knots = np.array([(first, true) for first, true, _ in pooled])
    return knots[:, 0], np.clip(knots[:, 1], 0.001, 0.999)


@dataclass(frozen=True, slots=True)
class ReliabilityPoint:
    """Predictions of similar confidence."""

    said: float
    true: float
    count: int


def reliability(said: Floats, outcomes: NDArray[np.bool_], groups: int = 10) -> list[ReliabilityPoint]:
    """The points of a reliability diagram: ``groups`` equal stretches of [0, 1], empty ones left out."""
    member = np.minimum((said * groups).astype(int), groups - 1)
    points = []
    for group in range(groups):
        inside = member == group
        if inside.any():
            points.append(
                ReliabilityPoint(float(said[inside].mean()), float(outcomes[inside].mean()), int(inside.sum()))
            )
    return points


def expected_calibration_error(points: list[ReliabilityPoint]) -> float:
    """In [0, 1]; 0 without predictions."""
    total = sum(point.count for point in points)
    return sum(point.count * abs(point.said - point.true) for point in points) / max(total, 1)
