"""Our decoder against transformers, float32."""

from __future__ import annotations

import pytest
import torch
from decoder_models import MODELS, reference, scores, tiny_model

from foredraft_cloud.decoder import load_target
from foredraft_cloud.target import Run


@pytest.mark.parametrize("name", sorted(MODELS))
def test_tiny_checkpoint(name: str) -> None:
    tokens = torch.randint(0, 320, (1, 333), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = reference(name)(tokens).logits[0]
    target = load_target(tiny_model(name), dtype="float32")
    run = Run(target.open(), tuple(tokens[0].tolist()), 333)
    (logits,) = target.verify([run]).step().logits
    assert (scores(logits) - expected).abs().max() < 1e-4 * expected.abs().max().clamp(min=1.0)
