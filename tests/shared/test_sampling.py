"""Shared noise: the known answers, the distribution it samples, and how often two sides agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from foredraft_shared.messages import SamplingParams
from foredraft_shared.sampling import agreement_bound, gumbel, noise_bits, pick, probabilities, winner

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "noise_vectors.json").read_text())

WARPS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.7, top_p=0.9),
    SamplingParams(temperature=1.3, top_k=5),
    SamplingParams(temperature=1.0, min_p=0.1),
]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['seed']}-{vector['position']}")
def test_known_answers(vector: dict[str, list[int]]) -> None:
    tokens = np.array(vector["tokens"])
    assert noise_bits(vector["seed"], vector["position"], tokens).tolist() == vector["bits"]
    assert gumbel(vector["seed"], vector["position"], tokens) == pytest.approx(vector["gumbel"], rel=1e-14)


@pytest.mark.parametrize("params", WARPS, ids=str)
def test_picks_follow_the_softmax(params: SamplingParams) -> None:
    scores = 2.0 * np.random.default_rng(0).standard_normal(24)
    params = SamplingParams(params.temperature, params.top_k, params.top_p, params.min_p, seed=11)
    count = 20_000
    seen = np.bincount([pick(scores, params, position) for position in range(count)], minlength=scores.size)
    expected = count * probabilities(scores, params)
    assert not seen[expected == 0].any()
    alive = expected > 0
    assert stats.chisquare(seen[alive], expected[alive]).pvalue > 1e-3


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("size", [3, 5_000, 49_152])
def test_the_winner_of_a_few_is_the_winner_of_all(spread: float, size: int) -> None:
    generator = np.random.default_rng(size)
    tokens = np.sort(generator.permutation(2 * size)[:size])
    for position in range(60):
        scores = spread * generator.standard_normal(size)
        if position % 3 == 0:
            scores[generator.integers(size)] += 12.0  # one that nearly always wins
        if position % 5 == 0:
            scores[generator.integers(size, size=size // 2)] = -np.inf
        expected = int(np.argmax(scores + gumbel(5, position, tokens)))
        assert winner(scores, 5, position, tokens) == expected


def test_noise_of_neighbours_is_independent() -> None:
    """Neighbouring positions, tokens and seeds: uniform, and without correlation."""
    tokens = np.arange(4096)
    base = noise_bits(7, 100, tokens) / 2.0**32
    assert stats.kstest(base, "uniform").pvalue > 1e-3
    for other in (
        noise_bits(7, 101, tokens),
        noise_bits(8, 100, tokens),
        noise_bits(7 << 32, 100, tokens),
        np.roll(noise_bits(7, 100, tokens), 1),
    ):
        assert abs(stats.pearsonr(base, other / 2.0**32).statistic) < 0.06


@pytest.mark.parametrize("doubt", [0.1, 0.5, 1.5])
def test_agreement_reaches_the_bound(doubt: float) -> None:
    generator = np.random.default_rng(1)
    target = 2.0 * generator.standard_normal(50)
    draft = target + doubt * generator.standard_normal(50)
    params = SamplingParams(temperature=1.0, seed=5)
    count = 5_000
    agreed = sum(pick(target, params, position) == pick(draft, params, position) for position in range(count))
    bound = agreement_bound(probabilities(target, params), probabilities(draft, params))
    assert agreed / count >= bound - 3 * np.sqrt(bound * (1 - bound) / count)
