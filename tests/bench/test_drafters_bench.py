"""The drafters' benchmark runs on any model, and its command writes what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import pytest

from foredraft_shared.command import main


def test_a_tiny_model_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOREDRAFT_CACHE", str(tmp_path / "cache"))
    folder = checkpoints.write_hugging_face(tmp_path / "model", layers=2)
    out = tmp_path / "figures.json"
    options = ["--model", str(folder), "--first", "1", "--head", "32", "--tokens", "3", "--json", str(out)]
    assert main(["bench", "drafters", *options]) == 0
    assert "full onnx int8" in capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads(out.read_text())["drafters"]}
    assert rows["full onnx float32"]["agreement"] == 1.0
    assert all(row["greedy_ms"] > 0 for row in rows.values() if not row["note"])
    llama = next(row for name, row in rows.items() if "llama" in name)
    assert "llama" in llama["note"]  # not installed, or not a GGUF: said so
