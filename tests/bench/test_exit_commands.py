"""``foredraft train exits`` and what evaluating says of exits, on a tiny target."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from foredraft_bench.evaluation_report import markdown, write_report
from foredraft_bench.exit_planning import advise
from foredraft_bench.training import train
from foredraft_cloud.training.prompts import excluded_hashes, prompt_hash
from foredraft_cloud.training.shards import read_texts
from foredraft_shared.command import main
from foredraft_shared.errors import ForedraftError, UsageError, VocabularyMismatch
from foredraft_shared.models import open_model
from foredraft_shared.models.artifacts import load_artifact, prompt_hashes

QUESTIONS = [f"The robot takes {number} cups from the table, where are they?" for number in range(30)]
HELD_OUT = ["Who is there?", "How many cups are red?"]


def run(*words: object) -> str:
    done = CliRunner().invoke(train, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a target of the Qwen2 family, its answers, and heads after its layers 1 and 2."""
    folder = tmp_path_factory.mktemp("made")
    target = checkpoints.write_hugging_face(folder / "target", "qwen2", layers=3)
    for name, questions in (("prompts", QUESTIONS), ("held_out", HELD_OUT)):
        texts = (json.dumps({"prompt": question, "category": "cups"}) + "\n" for question in questions)
        (folder / f"{name}.jsonl").write_text("".join(texts))
    sizes = ["--tokens", 500, "--answer", 16, "--slots", 8, "--longest", 100, "--shard", 200, "--dtype", "float32"]
    asked = ["--prompts", folder / "prompts.jsonl", "--never", folder / "held_out.jsonl", "--out", folder / "data"]
    run("collect", "--target", target, *asked, *sizes)
    shape = ["--layers", "2,1", "--vocabulary", 150, "--minutes", 0.03, "--validation", 0.3, "--head", "attention"]
    heads = folder / "exits.safetensors"
    output = run("exits", "--target", target, "--data", folder / "data", "--out", heads, *shape)
    assert "held-out rounds hinted right" in output
    return folder


@pytest.fixture(scope="module")
def figures(made: Path) -> dict[str, Any]:
    options = ["--prompts", made / "held_out.jsonl", "--tokens", 16, "--dtype", "float32", "--drafted", 3]
    where = ["--json", made / "figures.json", "--report", made / "report"]
    run(
        "evaluate",
        *["--target", made / "target", "--draft", f"first:2:{made / 'target'}"],
        *["--heads", made / "exits.safetensors", *options, *where],
    )
    found: dict[str, Any] = json.loads((made / "figures.json").read_text())
    return found


def test_exits_are_trained_for_any_target(made: Path) -> None:
    artifact = load_artifact(made / "exits.safetensors", "exits")
    artifact.check(open_model(made / "target"))
    assert artifact.facts["layers"] == [1, 2]
    assert artifact.facts["data"]["answered_tokens"] >= 400
    for layer in ("1", "2"):
        fact = artifact.facts["exits"][layer]
        assert fact["finished"]
        assert fact["hints"]["rounds"] > 0
        assert 0.0 <= fact["hints"]["ece"] <= 1.0


def test_nothing_held_out_was_trained_on(made: Path) -> None:
    trained_on = prompt_hashes(load_artifact(made / "exits.safetensors", "exits"))
    assert trained_on == {text.key for text in read_texts(made / "data", open_model(made / "target"))}
    assert trained_on & {prompt_hash(question) for question in QUESTIONS}
    assert not trained_on & excluded_hashes([made / "held_out.jsonl"])
    assert prompt_hash(HELD_OUT[0].upper()) in excluded_hashes([made / "held_out.jsonl"]), "spelling hides nothing"


def test_its_card_tells_how_it_was_made(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", str(made / "exits.safetensors")]) == 0
    card = " ".join(capsys.readouterr().out.split())
    for part in ("Exit heads for target", "After layer 1", "After layer 2", "calibration error", "prompts"):
        assert part in card


def test_heads_are_calibrated_again_in_place_and_their_card_says_so(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = tmp_path / "exits.safetensors"
    shutil.copy(made / "exits.safetensors", heads)
    monkeypatch.setattr(sys, "argv", ["foredraft", "train", "calibrate", "--heads", "my exits.safetensors"])
    output = run("calibrate", "--heads", heads, "--target", made / "target", "--data", made / "data")
    assert "held-out rounds hinted right" in output
    assert "calibrated again" in output
    before, after = load_file(made / "exits.safetensors"), load_file(heads)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before.keys() | after.keys())
    assert main(["models", "show", str(heads)]) == 0
    card = " ".join(capsys.readouterr().out.split())
    assert card.count("Calibrated again by foredraft train calibrate --heads 'my exits.safetensors', on ") == 2
    first, again = (load_artifact(path, "exits").facts for path in (made / "exits.safetensors", heads))
    assert again["command"] == first["command"]
    assert again["exits"]["1"]["hints"]["rounds"] > 0


def test_calibrating_tells_of_mistakes_in_one_line(made: Path, tmp_path: Path) -> None:
    other = checkpoints.write_hugging_face(tmp_path / "other", "qwen2", layers=3, seed=8)
    for heads, target, said in (
        (tmp_path / "none.safetensors", made / "target", "no such file; train one"),
        (made / "exits.safetensors", other, "train one for this model"),
        (made / "prompts.jsonl", made / "target", "is no artifact"),
    ):
        options = ["calibrate", "--heads", str(heads), "--target", str(target), "--data", str(made / "data")]
        failed = CliRunner().invoke(train, options)
        assert isinstance(failed.exception, ForedraftError)
        assert said in str(failed.exception)


def test_evaluating_judges_every_exit(figures: dict[str, Any]) -> None:
    assert {"alpha_greedy", "alpha_sampled", "draft_cost_ratio", "exits"} <= figures.keys()
    assert [each["layer"] for each in figures["exits"]] == [1, 2]
    for each in figures["exits"]:
        assert set(each) == {"layer", "right", "precision", "coverage", "ece", "cost"}
        assert 0.0 <= each["right"] <= 1.0
        assert each["coverage"] >= 0.35
        curve = figures["hint_curves"][str(each["layer"])]
        assert sum(point["count"] for point in curve["reliability"]) == curve["rounds"] > 4


def test_the_report_has_its_plots(made: Path, figures: dict[str, Any]) -> None:
    text = (made / "report" / "report.md").read_text()
    assert "| 2 |" in text
    for name in ("acceptance.png", "hints.png"):
        assert f"]({name})" in text
        assert (made / "report" / name).read_bytes().startswith(b"\x89PNG")
    assert markdown(figures) in text, "figures read back from JSON say the same"


def test_without_matplotlib_the_report_says_what_to_install(
    figures: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install" in write_report(figures, tmp_path).read_text()


def test_heads_for_another_target_are_refused(made: Path, tmp_path: Path) -> None:
    other = checkpoints.write_hugging_face(tmp_path / "other", "qwen2", layers=3, seed=8)
    options = [
        "--prompts",
        str(made / "held_out.jsonl"),
        "--draft",
        "ngram",
        "--heads",
        str(made / "exits.safetensors"),
    ]
    refused = CliRunner().invoke(train, ["evaluate", "--target", str(other), *options])
    assert isinstance(refused.exception, VocabularyMismatch)
    missing = CliRunner().invoke(
        train, ["evaluate", *options[:4], "--target", str(other), "--heads", "none.safetensors"]
    )
    assert isinstance(missing.exception, UsageError)


def test_advice_follows_from_the_times() -> None:
    accurate = {0.0: (0.9, 0.9), 1.0: (1.0, 1.0)}
    slow = advise(30, draft_ms=10.0, verify_ms=300.0, rtt_ms=5.0, acceptance=0.6, accuracy=accurate)
    assert slow.best, "where the pass takes long and hints are right, they pay"
    quick = advise(
        30, draft_ms=5.0, verify_ms=10.0, rtt_ms=100.0, acceptance=0.95, accuracy={0.0: (0.0, 0.0), 1.0: (0.1, 1.0)}
    )
    assert quick.best == ()


def test_the_command_tells_where_exits_pay(made: Path) -> None:
    options = ["--target", str(made / "target"), "--where", "--verify-ms", "300", "--draft-ms", "10"]
    assert "Recommended" in run("exits", *options, "--out", made / "exits.safetensors")
    assert "as measured elsewhere" in run("exits", *options)


def test_mistakes_are_found_before_the_work(made: Path, tmp_path: Path) -> None:
    target = ["--target", str(made / "target")]
    training = ["exits", *target, "--data", str(made / "data"), "--out", str(tmp_path / "heads.safetensors")]
    evaluating = ["evaluate", *target, "--prompts", str(made / "held_out.jsonl"), "--draft", "ngram"]
    for options, said in (
        ([*training, "--layers", "1,15"], "choose --layers below that"),
        ([*training, "--layers", "1", "--head", "linear"], "choose mlp or attention"),
        ([*evaluating, "--json", str(tmp_path / "missing" / "figures.json")], "make it first"),
        ([*evaluating, "--report", str(made / "held_out.jsonl")], "cannot make the folder"),
    ):
        failed = CliRunner().invoke(train, options)
        assert isinstance(failed.exception, UsageError)
        assert said in str(failed.exception)
    assert not any(tmp_path.iterdir()), "nothing was begun"


def test_what_is_missing_is_asked_for() -> None:
    for options, said in (
        ([], "give --data and --out"),
        (["--data", "d", "--out", "heads.bin"], r"call it heads\.safetensors"),
    ):
        failed = CliRunner().invoke(train, ["exits", *options])
        assert isinstance(failed.exception, UsageError)
        with pytest.raises(UsageError, match=said):
            raise failed.exception
