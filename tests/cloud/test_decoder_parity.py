"""Our decoder against transformers, float32."""

from __future__ import annotations

import pytest
import torch
import transformers
from decoder_models import MODELS, reference, scores, tiny_model

from foredraft_bench.in_transformers import in_transformers
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


def test_the_real_model_says_the_same_at_500_positions(smollm2: Model) -> None:
    text = "\n".join(
        (__doc__ or "", transformers.LlamaConfig.__doc__ or "", "Once upon a time, a robot learned. " * 40)
    )
    tokens = tuple(smollm2.tokenizer.encode(text))[:500]
    assert len(tokens) == 500
    with torch.no_grad():
        expected = in_transformers(smollm2)(torch.tensor([tokens])).logits[0]
    target = load_target(smollm2, dtype="float32", context=512)
    (logits,) = target.verify([Run(target.open(), tokens, 500)]).step().logits
    actual = scores(logits)
    assert (actual - expected).abs().max() < 1e-3
    assert torch.equal(actual.argmax(1), expected.argmax(1))
