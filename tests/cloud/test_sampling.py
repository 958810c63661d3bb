"""The torch version of the shared noise picks what the numpy version picks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foredraft_cloud import sampling
from foredraft_shared import sampling as numpy_sampling
from foredraft_shared.messages import SamplingParams

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "noise_vectors.json").read_text())

params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 2, 40, 600, 10**6]),
    top_p=st.sampled_from([1.0, 0.99, 0.95, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.02, 0.5]),
    seed=st.integers(0, 2**64 - 1),
)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['seed']}-{vector['position']}")
def test_known_answers(vector: dict[str, list[int]]) -> None:
    tokens = torch.tensor(vector["tokens"])
    assert sampling.noise_bits(vector["seed"], vector["position"], tokens).tolist() == vector["bits"]
    noise = sampling.gumbel(vector["seed"], vector["position"], tokens)
    assert noise.tolist() == pytest.approx(vector["gumbel"], rel=1e-14)


@given(
    params=params,
    vocabulary=st.sampled_from([1, 2, 64, 1000, 5000]),
    spread=st.sampled_from([0.01, 1.0, 4.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    shuffle=st.integers(0, 2**32 - 1),
    position=st.integers(0, 2**31),
)
def test_torch_agrees_with_numpy(
    params: SamplingParams, vocabulary: int, spread: float, dtype: torch.dtype, shuffle: int, position: int
) -> None:
    scores = torch.randn(vocabulary, generator=torch.Generator().manual_seed(shuffle)).mul(spread).to(dtype)
    expected = numpy_sampling.pick(scores.float().numpy(), params, position)
    assert sampling.pick_on_device(scores, params, position) == expected
    assert sampling.pick(scores, params, position) == expected
    if not params.greedy:
        tokens, tempered = sampling.warp(scores, params)
        numpy_tokens, numpy_tempered = numpy_sampling.warp(scores.float().numpy(), params)
        assert np.array_equal(tokens.numpy(), numpy_tokens)
        assert np.array_equal(tempered.numpy(), numpy_tempered)
