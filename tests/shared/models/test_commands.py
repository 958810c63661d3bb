"""``foredraft models`` as a user types it."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import pytest

from foredraft_shared.command import main
from foredraft_shared.models import Model


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    if "smollm2" not in request.fixturenames:
        monkeypatch.setenv("FOREDRAFT_CACHE", str(tmp_path / "cache"))


def test_list(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["models", "list"]) == 0
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("smollm2-135m"))
    assert "98 MB" in line
    assert "Apache-2.0" in line
    assert " no " in line
    assert f"Cache: {tmp_path / 'cache'}" in text


def test_pull_prints_the_path(capsys: pytest.CaptureFixture[str], tiny_folder: Path) -> None:
    assert main(["models", "pull", str(tiny_folder)]) == 0
    assert capsys.readouterr().out.strip() == str(tiny_folder)


def test_show(capsys: pytest.CaptureFixture[str], tiny_folder: Path, tiny_gguf: Path) -> None:
    for path in (tiny_folder, tiny_gguf):
        assert main(["models", "show", str(path)]) == 0
        text = capsys.readouterr().out
        for part in (str(path), "F32", "512 tokens", "4 heads of 16", "chat template", "fingerprint"):
            assert part in text, part


def test_show_says_what_is_special(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    checkpoints.write_hugging_face(
        tmp_path, "mistral", tied=True, overrides={"sliding_window": 64}, rope={"rope_type": "linear", "factor": 2.0}
    )
    assert main(["models", "show", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for part in ("head tied to the embedding", "sliding window 64", "linear × 2"):
        assert part in text


def test_show_the_real_model_with_its_card(capsys: pytest.CaptureFixture[str], smollm2: Model) -> None:
    assert main(["models", "show", "smollm2-135m"]) == 0
    text = capsys.readouterr().out
    for part in ("134.5 M", "Q4_1", "8192 tokens", "Apache-2.0", smollm2.tokenizer.fingerprint, "arXiv:2502.02737"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["pull", "smollm2"], "did you mean smollm2-135m?"),
        (["pull", "smollm2-135m", "--offline"], "offline"),
        (["show", "./nowhere"], "no such file"),
    ],
)
def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], named: str) -> None:
    assert main(["models", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert named in captured.err
    assert len(captured.err.strip().splitlines()) == 1
