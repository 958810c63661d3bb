"""The warps keep the sets that their definitions name, however they are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from foredraft_shared.messages import SamplingParams
from foredraft_shared.sampling import warp


def by_definition(scores: np.ndarray[Any, Any], params: SamplingParams) -> tuple[Any, Any]:
    """Sort everything, one warp after the other."""
    tempered = scores.astype(np.float64) / params.temperature
    keep = tempered > -np.inf
    if 0 < params.top_k < tempered.size:
        keep &= tempered >= np.sort(tempered)[-params.top_k]
    if params.top_p < 1.0:
        kept = np.sort(tempered[keep])[::-1]
        mass = np.exp(kept - kept[0]) / np.exp(kept - kept[0]).sum()
        reached = np.flatnonzero(np.cumsum(mass) >= params.top_p)
        keep &= tempered >= kept[reached[0] if reached.size else -1]
    if params.min_p > 0.0:
        keep &= tempered >= tempered.max() + np.log(params.min_p)
    return np.flatnonzero(keep), tempered[keep]


@given(
    size=st.integers(1, 400),
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0]),
    ties=st.booleans(),
    masked=st.booleans(),
    temperature=st.sampled_from([0.1, 0.8, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 3, 40]),
    top_p=st.sampled_from([1.0, 0.99, 0.95, 0.5, 0.001]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
)
def test_sets_by_definition(
    size: int,
    seed: int,
    spread: float,
    ties: bool,
    masked: bool,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
) -> None:
    generator = np.random.default_rng(seed)
    scores = (generator.standard_normal(size) * spread).astype(np.float32)
    if ties:
        scores = np.round(scores)
    if masked and size > 1:
        scores[generator.integers(1, size, size // 2)] = -np.inf
    params = SamplingParams(temperature, top_k, top_p, min_p)
    tokens, tempered = warp(scores, params)
    wanted_tokens, wanted_tempered = by_definition(scores, params)
    np.testing.assert_array_equal(tokens, wanted_tokens)
    np.testing.assert_array_equal(tempered, wanted_tempered)
