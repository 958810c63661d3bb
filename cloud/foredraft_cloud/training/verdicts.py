"""Rounds played again on collected texts, to learn how far an exit's hints can be relied on.

The target's picks are known (the texts), and what the exit scores at every position is computed. Whose drafts the exit
will one day judge is not known, so many are imagined: a draft that sees the target's distribution through noise, partly
mixed with the exit's own, which errs as shallow drafts do. The noise differs from text to text, so that drafts from nearly
perfect to poor are all there, and ``trust``, which the server follows in the same way, tells them apart.

Rounds of one to eight tokens are walked as the server walks them. The regressions learn from rows whose drafted tokens before
all stood. A hint that takes a failing token for standing walks on, over rows behind a token that the texts do not hold; there
the rows of the true text stand in. ``foredraft train evaluate`` needs no such help: it runs the target over what was drafted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from foredraft_shared.messages import SamplingParams, TokenId

from ..calibration import (
    Logistic,
    ReliabilityPoint,
    expected_calibration_error,
    fit_isotonic,
    fit_logistic,
    reliability,
)
from ..foresight import WIDTHS, Evidence, Foresight, Trust, evidence
from ..reading import said
from .collecting import TOP_P, pick_among
from .shards import Text

__all__ = [
    "Device",
    "HintQuality",
    "Hinted",
    "Played",
    "Row",
    "Scored",
    "fit_foresight",
    "hinted",
    "hints",
    "imagined",
    "quality",
    "rounds",
]

_LONGEST = 8
_NOISES = (0.05, 0.15, 0.4, 0.8, 1.5, 3.0)


@dataclass(frozen=True, slots=True)
class Scored:
    """A text, and what an exit says where its answered tokens are predicted."""

    text: Text
    scores: NDArray[np.floating]  # [M, V] at temperature 1

    @property
    def params(self) -> SamplingParams:
        """What the text was sampled with."""
        return SamplingParams(temperature=self.text.temperature, top_p=TOP_P, seed=self.text.seed)


@dataclass(frozen=True, slots=True)
class Row:
    """A scored row of a round."""

    seen: Evidence
    drafted: TokenId | None
    token: TokenId
    """What the target picks there."""


@dataclass(frozen=True, slots=True)
class Played:
    """A round: a row for each drafted token and one beyond, and how many of the drafted tokens stand."""

    rows: tuple[Row, ...]
    accepted: int

    @property
    def reached(self) -> tuple[Row, ...]:
        """The rows whose drafted tokens before them all stood."""
        return self.rows[: self.accepted + 1]


@dataclass(frozen=True, slots=True)
class Hinted:
    """A round: how sure the exit was of its outcome, and whether it was that."""

    confidence: float
    right: bool


@dataclass(frozen=True, slots=True)
class HintQuality:
    """Of an exit, over rounds.

    ``precision`` and ``coverage`` are by least confidence: of the rounds whose hint is at least so sure, how many are right,
    and how many rounds these are.
    """

    rounds: int
    right: float
    """Share of all rounds whose hint names the outcome: same count, same token."""
    ece: float
    at: list[float] = field(default_factory=lambda: [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    precision: list[float | None] = field(default_factory=list)
    coverage: list[float] = field(default_factory=list)
    reliability: list[ReliabilityPoint] = field(default_factory=list)


@dataclass(slots=True)
class Device:
    """An imagined one."""

    generator: np.random.Generator
    noise: float
    """Nats, of each log-probability of the target's."""
    likeness: float
    """Share of the exit's own opinion in what it drafts by."""
    trust: Trust = field(default_factory=Trust)


def imagined(seed: int) -> Device:
    """Half of them are good ones: copies in fewer bits and trained drafts are what people use."""
    generator = np.random.default_rng(seed)
    return Device(generator, float(generator.choice(_NOISES)), float(generator.choice([0.0, 0.3, 0.6])))


def rounds(scored: Scored, tokens: NDArray[np.int64], device: Device, longest: int = _LONGEST) -> Iterator[Played]:
    """The rounds of one text as ``device`` drafts them; the server has its trust from the texts before."""
    text, params, generator, trust = scored.text, scored.params, device.generator, device.trust
    exit_said = said(torch.from_numpy(scored.scores), torch.from_numpy(tokens))
    at = 0
    while at < text.answered:
        length = min(int(generator.integers(1, longest + 1)), text.answered - at - 1)
        rows: list[Row] = []
        accepted = 0
        for row in range(length + 1):
            index = at + row
            drafted = _drafted(scored, tokens, index, device) if row < length else None
            seen = evidence(exit_said[index], tokens, drafted, params, text.start + index, row, trust.share)
            rows.append(Row(seen, drafted, int(text.tokens[text.start + index])))
            accepted += accepted == row and drafted == rows[-1].token
        yield Played(tuple(rows), accepted)
        trust.learn(length, accepted)
        at += accepted + 1


def _drafted(
    scored: Scored,
    tokens: NDArray[np.int64],
    index: int,
    device: Device,
) -> TokenId:
    text, likeness = scored.text, device.likeness
    ids = text.top_ids[index]
    logs = text.top_log_probabilities[index].astype(np.float64)
    if likeness:
        at = np.minimum(np.searchsorted(tokens, ids), len(tokens) - 1)
        own = np.where(tokens[at] == ids, scored.scores[index][at].astype(np.float64), -np.inf)
        top = own.max()
        if np.isfinite(top):
            logs = (1 - likeness) * logs + likeness * np.maximum(own - top, -15.0)
    logs = logs + device.noise * device.generator.standard_normal(len(logs))
    order = np.argsort(-logs, kind="stable")
    position = text.start + index
    return pick_among(ids[order], logs[order].astype(np.float32), text.temperature, TOP_P, text.seed, position)


def fit_foresight(played: Sequence[Played]) -> Foresight:
    """The three regressions; the later half of the rounds bends what the earlier half has made of them."""
    half = len(played) // 2 if len(played) >= 400 else len(played)
    fits: dict[str, Logistic] = {}
    for name in WIDTHS:
        features, outcomes = _examples(played[:half], name)
        fit = fit_logistic(features, outcomes)
        if half < len(played):
            features, outcomes = _examples(played[half:], name)
            said, true = fit_isotonic(fit.raw(features), outcomes)
            fit = replace(fit, said=said, true=true)
        fits[name] = fit
    return Foresight(**fits)


def _examples(played: Sequence[Played], name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    features: list[tuple[float, ...]] = []
    outcomes: list[bool] = []
    for row in (row for each in played for row in each.reached):
        if row.seen.of_draft is None:
            if name == "beyond":
                features.append(row.seen.of_rival)
                outcomes.append(row.token == row.seen.rival)
        elif name == "drafted":
            features.append(row.seen.of_draft)
            outcomes.append(row.token == row.drafted)
        elif name == "instead" and row.token != row.drafted:
            features.append(row.seen.of_rival)
            outcomes.append(row.token == row.seen.rival)
    if not features:  # too few texts: what is not known is left at its prior
        return np.zeros((0, WIDTHS[name])), np.zeros(0, bool)
    return np.array(features), np.array(outcomes)


def hinted(foresight: Foresight, played: Played) -> Hinted:
    """The hint of one round, walked as the server does."""
    sure = 1.0
    for index, row in enumerate(played.rows):
        token, confidence = foresight(row.seen, row.drafted)
        sure *= confidence
        if token != row.drafted:
            return Hinted(sure, index == played.accepted and token == row.token)
    raise AssertionError("nothing is drafted at the last row")


def hints(foresight: Foresight, played: Sequence[Played]) -> list[Hinted]:
    """The hint of each round."""
    return [hinted(foresight, each) for each in played]


def quality(found: Sequence[Hinted]) -> HintQuality:
    """What the hints of many rounds are worth."""
    said = np.array([each.confidence for each in found], np.float64)
    right = np.array([each.right for each in found], bool)
    points = reliability(said, right)
    made = HintQuality(
        len(found),
        float(right.mean()) if len(found) else 0.0,
        expected_calibration_error(points),
        reliability=points,
    )
    for least in made.at:
        sure = said >= least
        made.precision.append(float(right[sure].mean()) if sure.any() else None)
        made.coverage.append(float(sure.mean()) if len(found) else 0.0)
    return made
