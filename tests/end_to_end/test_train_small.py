"""The whole recipe on the real small model, at a size that takes minutes: `make train-small`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foredraft_bench.training import train
from foredraft_shared.models import Model
from foredraft_shared.models.artifacts import load_artifact

PROMPTS = Path(__file__).parents[1] / "data" / "prompts.jsonl"


def foredraft_train(*words: object) -> str:
    done = CliRunner().invoke(train, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    print(done.output)
    return done.output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_few_minutes_make_a_draft_and_exits_that_foresee_more_than_untrained_ones(
    smollm2: Model, tmp_path: Path
) -> None:
    data, draft, figures = tmp_path / "data", tmp_path / "draft.safetensors", tmp_path / "figures.json"
    exits, untrained = tmp_path / "exits.safetensors", tmp_path / "untrained.json"
    # Few prompts lie in the repository, so the target invents most of its questions.
    sizes = ["--tokens", 6000, "--answer", 64, "--slots", 32, "--invented", 0.9, "--shard", 2000]
    foredraft_train("collect", "--target", smollm2.path, "--prompts", PROMPTS, "--out", data, *sizes)
    options = ["--minutes", 2, "--look-every", 0.5, "--validation", 0.2]
    foredraft_train("draft", "--target", smollm2.path, "--data", data, "--out", draft, *options)
    facts = load_artifact(draft, "draft").facts
    before, after = facts["untrained"], facts["validation"]
    assert after["greedy"] + after["sampled"] > before["greedy"] + before["sampled"]
    assert draft.stat().st_size < 30_000_000
    options = ["--layers", 15, "--minutes", 1.5, "--look-every", 0.5, "--validation", 0.2, "--vocabulary", 4096]
    foredraft_train("exits", "--target", smollm2.path, "--data", data, "--out", exits, *options)
    facts = load_artifact(exits, "exits").facts["exits"]["15"]
    assert facts["validation"]["greedy"] + facts["validation"]["sampled"] > (
        facts["untrained"]["greedy"] + facts["untrained"]["sampled"]
    ), "more than the closed-form start"
    # Rounds of one token: so small a draft is wrong in nearly every longer one, whatever the exit knows.
    options = ["--target", smollm2.path, "--prompts", PROMPTS, "--limit", 6, "--tokens", 24, "--drafted", 1]
    foredraft_train("evaluate", *options, "--draft", f"draft:{draft}", "--exits", 15, "--json", untrained)
    foredraft_train("evaluate", *options, "--draft", f"draft:{draft}", "--heads", exits, "--json", figures)
    found = json.loads(figures.read_text())
    (hints,), (lens,) = found["exits"], json.loads(untrained.read_text())["exits"]
    assert hints["layer"] == 15
    assert hints["right"] > lens["right"], "the target's own head applied early"
    assert hints["cost"] < lens["cost"]
    assert 0.05 < found["alpha_greedy"] < 1
    assert 0 < found["draft_cost_ratio"] < 0.8
