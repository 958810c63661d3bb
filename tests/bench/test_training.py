"""Evaluating a draft: the figures are what the rounds of a session would be."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from foredraft_bench.evaluation import acceptance_by_position, evaluate_draft, tokens_per_round
from foredraft_bench.training import train
from foredraft_cloud.decoder import load_target
from foredraft_cloud.training.collecting import CollectOptions, collect
from foredraft_cloud.training.drafts import DraftModel
from foredraft_cloud.training.fitting import FitOptions, fit
from foredraft_cloud.training.prompts import Prompts
from foredraft_cloud.training.shards import Shards, read_texts
from foredraft_cloud.training.texts import sub_vocabulary
from foredraft_shared.models import open_model
from foredraft_shared.models.artifacts import save_artifact


def test_rounds_of_a_known_text() -> None:
    text = [True, True, False, True, False, False, True]
    # Drafting 2: (t t | f) (t | f) (f) (t …): four rounds, seven tokens.
    assert tokens_per_round([text], 2) == pytest.approx(7 / 4)
    assert tokens_per_round([text], 1) == pytest.approx(7 / 5)
    assert acceptance_by_position([text], 2) == [pytest.approx(3 / 4), pytest.approx(1 / 2)]
    assert acceptance_by_position([[False]], 2) == [0.0, None]


@pytest.mark.parametrize("family", ["qwen2"])
def test_the_whole_target_as_its_own_draft_foresees_nearly_everything(family: str, tmp_path: Path) -> None:
    target = checkpoints.write_hugging_face(tmp_path / "target", family, layers=2)
    model = open_model(target)
    tokens = np.arange(model.config.vocabulary)
    draft = tmp_path / "draft.safetensors"
    arrays = {"norm.weight": model.weights["norm.weight"], "head.weight": model.weights["head.weight"]}
    save_artifact(draft, "draft", model, arrays | {"head.tokens": tokens}, {"layers": 2})
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(
            json.dumps({"turns": [f"Where is cup {number}?", "Why?"], "category": "abc"[number % 3]}) + "\n"
            for number in range(6)
        )
    )
    out = tmp_path / "figures.json"
    options = ["--target", str(target), "--prompts", str(prompts), "--json", str(out), "--dtype", "float32"]
    sizes = ["--tokens", "24", "--limit", "4"]
    done = CliRunner().invoke(
        train, ["evaluate", "--draft", f"draft:{draft}", *options, *sizes], catch_exceptions=False
    )
    assert done.exit_code == 0
    figures = json.loads(out.read_text())
    assert figures["prompts"] == 4
    assert figures["alpha_greedy"] > 0.8, "int8 moves it a little"
    assert figures["alpha_sampled"] > 0.8
    assert len(figures["tokens_per_round"]["greedy"]) == 12
    assert 1.0 < figures["tokens_per_round"]["greedy"]["1"] <= 2.0
    assert len(figures["by_position"]["sampled"]) == 12
    assert figures["draft_cost_ratio"] > 0
    assert set(figures["by_category"]["greedy"]) <= set("abc")


def test_a_draft_taught_by_few_answers_foresees_them_better_as_a_device_runs_it(tmp_path: Path) -> None:
    model = open_model(checkpoints.write_hugging_face(tmp_path / "target", "llama", layers=4))
    questions = [f"Where is the red cup {number}?" for number in range(8)]
    prompts = Prompts(model.tokenizer, questions, invented=0.0, greedy=1.0, second_turns=0.0)
    decoder = load_target(model, dtype="float32", context=160, slots=8)
    shards = Shards(tmp_path / "data", model)
    collect(decoder, model.tokenizer, prompts, shards, CollectOptions(10_000, slots=8, answer=24))
    texts = read_texts(tmp_path / "data", model)
    assert len(texts) == 16, "two answers to each"
    tokens = sub_vocabulary(texts, model.config.vocabulary, 300)
    draft = DraftModel(
        model, frozen=1, layers=[1, 2], tokens=tokens, device=torch.device("cpu"), dtype=torch.float32, context=160
    )
    found = []
    for steps in (0, 60):
        if steps:
            fit(draft, texts, [], FitOptions(1.0, steps=steps, batch=500, learning_rate=3e-3, warm_up=5))
        path = tmp_path / f"after-{steps}.safetensors"
        save_artifact(path, "draft", model, draft.arrays(), {"layers": 3, "trained_layers": [1, 2]})
        found.append(evaluate_draft(model, f"draft:{path}", questions, tokens=24, dtype="float32"))
    before, after = found
    assert after["alpha_greedy"] > before["alpha_greedy"] + 0.2
    assert after["tokens_per_round"]["greedy"][4] > before["tokens_per_round"]["greedy"][4]
