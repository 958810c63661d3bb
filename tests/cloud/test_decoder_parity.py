"""Our decoder against transformers, float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from decoder_models import MODELS, reference, scores, tiny_model

from foredraft_cloud.decoder import load_target
from foredraft_cloud.target import Run
from foredraft_shared.models import Model


@pytest.mark.parametrize("name", sorted(MODELS))
def test_tiny_checkpoint(name: str) -> None:
    tokens = torch.randint(0, 320, (1, 333), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = reference(name)(tokens).logits[0]
    target = load_target(tiny_model(name), dtype="float32")
    run = Run(target.open(), tuple(tokens[0].tolist()), 333)
    (logits,) = target.verify([run]).step().logits
    assert (scores(logits) - expected).abs().max() < 1e-4 * expected.abs().max().clamp(min=1.0)


_THEIR_NAMES = (
    ("embedding", "model.embed_tokens"),
    ("attn_norm", "input_layernorm"),
    ("mlp_norm", "post_attention_layernorm"),
)


def _in_transformers(model: Model) -> Any:
    """A model of the store, as transformers' Llama."""
    config = model.config
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.hidden,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=config.tied,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope.theta},
        )
    ).eval()
    state = {}
    for name in model.weights:
        key = name
        for part in ("q", "k", "v", "o"):
            key = key.replace(f"attn.{part}.", f"self_attn.{part}_proj.")
        for part in ("gate", "up", "down"):
            key = key.replace(f"mlp.{part}.", f"mlp.{part}_proj.")
        for ours, other in _THEIR_NAMES:
            key = key.replace(ours, other)
        state[key if key.startswith("model.") else f"model.{key}"] = torch.from_numpy(model.weights[name])
    theirs.load_state_dict(state, strict=not config.tied)
    theirs.tie_weights()
    return theirs


def test_the_real_model_says_the_same_at_500_positions(smollm2: Model) -> None:
    text = "\n".join(
        (__doc__ or "", transformers.LlamaConfig.__doc__ or "", "Once upon a time, a robot learned. " * 40)
    )
    tokens = tuple(smollm2.tokenizer.encode(text))[:500]
    assert len(tokens) == 500
    with torch.no_grad():
        expected = _in_transformers(smollm2)(torch.tensor([tokens])).logits[0]
    target = load_target(smollm2, dtype="float32", context=512)
    (logits,) = target.verify([Run(target.open(), tokens, 500)]).step().logits
    actual = scores(logits)
    assert (actual - expected).abs().max() < 1e-3
    assert torch.equal(actual.argmax(1), expected.argmax(1))
