"""A trained draft: made of an artifact and the target's own embedding, and refused by any other target."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import numpy as np
import pytest

from foredraft_edge.drafters import load_drafter
from foredraft_edge.drafters.loading import default_draft
from foredraft_shared.errors import UsageError, VocabularyMismatch
from foredraft_shared.messages import SamplingParams
from foredraft_shared.models import open_model
from foredraft_shared.models.artifacts import save_artifact

GREEDY = SamplingParams()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return checkpoints.write_hugging_face(tmp_path / "target", "qwen2", layers=4)


def artifact(target: Path, path: Path) -> Path:
    """The target's first two layers under its own final norm, and the head's rows for the even tokens."""
    model = open_model(target)
    tensors = {
        name: model.weights[name] for name in model.weights if name.startswith(("layers.0.", "layers.1.", "norm."))
    }
    tokens = np.arange(0, model.config.vocabulary, 2)
    head = model.weights["embedding.weight" if model.config.tied else "head.weight"]
    save_artifact(path, "draft", model, tensors | {"head.weight": head[tokens], "head.tokens": tokens}, {"layers": 2})
    return path


def test_it_drafts_what_the_first_layers_would_among_the_tokens_it_knows(target: Path, tmp_path: Path) -> None:
    trained, _ = load_drafter(f"draft:{artifact(target, tmp_path / 'draft.safetensors')}", target=target)
    reference, _ = load_drafter(f"first:2:{target}")
    agreed = 0
    for seed in range(20):
        prompt = [seed + 3, 2 * seed + 7, 11]
        for drafter in (trained, reference):
            drafter.begin(prompt)
        (proposal,) = list(trained.draft(1, GREEDY))
        (other,) = list(reference.draft(1, GREEDY))
        assert proposal.token % 2 == 0
        agreed += proposal.token == other.token
    assert agreed >= 5, "about half of the tokens are known to it"


def test_another_target_is_refused(target: Path, tmp_path: Path) -> None:
    other = checkpoints.write_hugging_face(tmp_path / "other", "qwen2", layers=4, seed=5)
    with pytest.raises(VocabularyMismatch, match="was trained for target"):
        load_drafter(f"draft:{artifact(target, tmp_path / 'draft.safetensors')}", target=other)


def test_without_a_shipped_draft_the_name_says_what_to_do_and_auto_takes_ngrams(target: Path) -> None:
    with pytest.raises(UsageError, match="ships no trained draft"):
        load_drafter(f"draft:{target}")
    with pytest.raises(UsageError, match="write the target after the colon"):
        load_drafter("draft")
    assert default_draft(target) == "ngram"
    assert default_draft("an-organisation/a-model-that-is-not-here") == "ngram"
    assert default_draft(None) == "ngram"
