"""Smoothing changes no function, evens out outliers, and leaves W8A8 close to float32 on real text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import real_world
import torch
from decoder_models import scores, tiny_model
from numpy.typing import NDArray

from foredraft_cloud.decoder import DecoderTarget, LoadedModel, load_target
from foredraft_cloud.smoothing import calibration_tokens, smoothed
from foredraft_cloud.target import Run
from foredraft_shared.messages import SamplingParams
from foredraft_shared.models import Model
from foredraft_shared.models.config import ModelConfig

TOKENS = tuple(range(40, 120))


@dataclass(frozen=True)
class Changed:
    config: ModelConfig
    weights: Mapping[str, NDArray[np.float32]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scored(target: DecoderTarget, tokens: tuple[int, ...], last: int) -> torch.Tensor:
    slot = target.open()
    (logits,) = target.verify([Run(slot, tokens, last)], exits=False).step().logits
    target.release(slot)
    return scores(logits)


def divergence(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Mean Kullback-Leibler divergence in nats."""
    return float((expected.softmax(1) * (expected.log_softmax(1) - found.float().log_softmax(1))).sum(1).mean())


@pytest.mark.parametrize("name", ["llama", "llama-tied-biased", "qwen2", "qwen3", "mistral-window"])
def test_smoothed_weights_are_the_same_function(name: str) -> None:
    model = tiny_model(name)
    changed = Changed(model.config, smoothed(model.config, model.weights, TOKENS))
    expected = scored(load_target(model, dtype="float32", slots=1), TOKENS, len(TOKENS))
    found = scored(load_target(changed, dtype="float32", slots=1), TOKENS, len(TOKENS))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
    assert not np.array_equal(changed.weights["norm.weight"], model.weights["norm.weight"])
    assert np.array_equal(changed.weights["embedding.weight"], model.weights["embedding.weight"])


def test_channels_that_are_far_too_large_cost_less_when_smoothed() -> None:
    model = tiny_model("llama")
    weights = {name: model.weights[name].copy() for name in model.weights}
    for name in ("layers.1.attn_norm.weight", "layers.2.mlp_norm.weight", "norm.weight"):
        weights[name][::24] *= 60.0
    attention = [f"layers.1.attn.{part}.weight" for part in "qkv"]
    for name in (*attention, "layers.2.mlp.gate.weight", "layers.2.mlp.up.weight", "head.weight"):
        weights[name][:, ::24] /= 60.0
    plain: LoadedModel = Changed(model.config, weights)
    even: LoadedModel = Changed(model.config, smoothed(model.config, weights, TOKENS))
    expected = scored(load_target(plain, dtype="float32", slots=1), TOKENS, len(TOKENS))
    found = [scored(load_target(each, dtype="w8a8", slots=1), TOKENS, len(TOKENS)) for each in (plain, even)]
    without, with_smoothing = (divergence(expected, each) for each in found)
    assert with_smoothing < without / 4


def test_a_model_without_a_tokenizer_is_left_as_it_is() -> None:
    model = tiny_model("llama")
    assert calibration_tokens(Changed(model.config, {})) == ()
    assert smoothed(model.config, model.weights, ()) is model.weights


def test_w8a8_says_nearly_what_float32_says_of_real_text(smollm2: Model) -> None:
    exact = load_target(smollm2, dtype="float32", context=512, slots=20)
    prompts = [tuple(smollm2.tokenizer.encode(text)) for text in real_world.prompts()[:12]]
    answers = real_world.continuations(exact, [(prompt, SamplingParams()) for prompt in prompts], 16)
    texts = [prompt + answer[:-1] for prompt, answer in zip(prompts, answers, strict=True)]
    expected = torch.cat([scored(exact, text, 16) for text in texts])
    del exact
    quantised = load_target(smollm2, dtype="w8a8", context=512, slots=2)
    found = torch.cat([scored(quantised, text, 16) for text in texts])
    assert float((expected.argmax(1) == found.argmax(1)).float().mean()) >= 0.88  # of 192 tokens
    assert divergence(expected, found) < 0.04
    assert not torch.equal(expected, found)
