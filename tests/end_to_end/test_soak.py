"""The soak in short: many texts at once, under random faults, and nothing is left over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("smollm2")  # its tokenizer
def test_many_texts_under_random_faults_are_right_and_leave_nothing_behind(tmp_path: Path):
    # So short a run cannot tell a slow leak from pools that fill up: what is held at rest is what it is about.
    command = ["bench", "soak", "--seconds", "20", "--tolerance", "16384", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "foredraft_shared", *command], capture_output=True, text=True, timeout=170, check=False
    )
    report = json.loads((tmp_path / "soak.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["passed"]
    assert report["wrong"] == report["untyped_errors"] == report["grown"] == []
    assert report["texts"] >= 32
    assert report["left"] > 0
    assert sum(report["faults"].values()) >= 3
    assert set(report["growth"]) == {"server", "device 1", "device 2", "device 3", "device 4"}
