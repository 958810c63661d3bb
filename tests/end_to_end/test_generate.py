"""``foredraft generate``: what it refuses before anything is written, what it loads, and what it tells; a toy answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import checkpoints
import pytest

from foredraft_bench.processes import CloudProcess
from foredraft_shared.command import main
from foredraft_shared.traces import read_trace

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Folder of a tiny model, and the address of a server that writes in its words."""
    model = checkpoints.write_hugging_face(tmp_path_factory.mktemp("models") / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        folders = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
        patch.setenv("PYTHONPATH", os.pathsep.join(folders))
        with CloudProcess(str(model), program="toy_serve") as cloud:
            cloud.wait_until_ready(30.0)
            yield str(model), cloud.address


Say = Callable[..., tuple[str, str]]


@pytest.fixture
def generate(served: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    monkeypatch.setenv("FOREDRAFT_EXPERIENCE", "none")

    def run(*words: str, code: int = 0, draft: str = "none", own: bool = True) -> tuple[str, str]:
        tokenizer = ["--tokenizer", served[0]] if own else []
        ended = main(["generate", "--server", served[1], "--draft", draft, *tokenizer, *words])
        shown = capsys.readouterr()
        assert ended == code, shown
        if code:
            assert shown.err.startswith("error: ")
            assert shown.err.count("\n") == 1
            assert "unexpected" not in shown.err
        return shown.out, shown.err

    return run


def test_what_is_written_is_never_what_is_read(generate: Say, tmp_path: Path) -> None:
    saved, asked, link = tmp_path / "s.jsonl", tmp_path / "q.txt", tmp_path / "link"
    generate("--save", str(saved), "--max-tokens", "8", "Which way?")
    asked.write_text("Which way?")
    link.symlink_to(saved)
    kept = saved.read_bytes(), asked.read_bytes()
    for written in ("--trace", "--save"):
        assert (
            f"--prompt-file and {written} name one file"
            in generate("--prompt-file", str(asked), written, str(asked), code=2)[1]
        )
    assert "--resume and --trace" in generate("--resume", str(saved), "--trace", str(link), code=2)[1]
    assert (
        "--save and --trace"
        in generate("--save", str(tmp_path / "new"), "--trace", str(tmp_path / "." / "new"), "Why?", code=2)[1]
    )
    assert "--trace" in generate("--trace", str(asked), "Why?", code=2, draft=f"onnx:{asked}")[1]
    assert (saved.read_bytes(), asked.read_bytes()) == kept
    assert not (tmp_path / "new").exists()
    generate("--resume", str(saved), "--trace", str(tmp_path / "t.jsonl"))


def test_a_saved_text_goes_on_as_it_was_begun(generate: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = tmp_path / "s.jsonl"
    text, _ = generate("--save", str(saved), "--max-tokens", "8", "Which way?")
    assert text.endswith("\n")
    for option in ("--max-tokens", "--temperature", "--top-k", "--top-p", "--min-p", "--seed"):
        assert f"leave {option} out" in generate("--resume", str(saved), option, "1", code=2)[1]
    monkeypatch.setenv("FOREDRAFT_GENERATE_MAX_TOKENS", "5")  # for texts that begin
    assert generate("--resume", str(saved)) == (text, "")  # it was finished, and ends its line all the same


@pytest.mark.parametrize("time", ["inf", "1e300", "1e10", "nan", "0"])
def test_times_that_are_none(generate: Say, capsys: pytest.CaptureFixture[str], time: str) -> None:
    assert "--deadline-ms" in generate("--deadline-ms", time, "Why?", code=2)[1]
    for command in (["doctor", "--draft", "none"], ["enroll", "127.0.0.1:9", "--token", "x"]):
        assert main([*command, "--timeout", time]) == 2
        assert "Invalid value for '--timeout'" in capsys.readouterr().err


def test_nothing_is_loaded_that_would_draft_nothing(
    generate: Say, served: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    monkeypatch.setattr("foredraft_edge.drafters.load_drafter", lambda *what, **_: loaded.append(what))
    for draft in ("auto", served[0], "first:1"):
        text, _ = generate("--mode", "cloud", "--max-tokens", "5", "Why?", draft=draft, own=draft != served[0])
        assert text
    assert not loaded


def test_only_what_was_measured_is_told(generate: Say, served: tuple[str, str], tmp_path: Path) -> None:
    _, told = generate("--mode", "edge", "--stats", "--max-tokens", "7", "Why?", draft=f"onnx:{served[0]}")
    assert "7 tokens in " in told
    assert "round trip" not in told
    assert "cloud" not in told
    _, told = generate("--mode", "cloud", "--stats", "--max-tokens", "7", "Why?")
    assert "7 tokens in " in told
    assert "cloud passes" in told
    assert "drafting" not in told.partition("planner")[0]


def test_words_without_a_tokenizer(generate: Say) -> None:
    assert "--tokenizer MODEL" in generate("--mode", "edge", "Why?", code=2, draft="ngram", own=False)[1]


def test_a_trace_is_closed_whatever_is_raised(generate: Say, tmp_path: Path) -> None:
    generate("--trace", str(tmp_path / "t.jsonl"), "--max-tokens", "1000000", "Why?", code=2)
    assert read_trace(tmp_path / "t.jsonl").rounds == []
    opened = Path("/proc/self/fd")
    if opened.is_dir():
        assert str(tmp_path / "t.jsonl") not in {os.path.realpath(file) for file in opened.iterdir()}
