"""The programs in ``demos/`` run as their first lines say, against a real server of a tiny model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import checkpoints
import pytest

from foredraft_bench.processes import CloudProcess

DEMOS = Path(__file__).parents[2] / "demos"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("models")
    target = checkpoints.write_hugging_face(folder / "target", "qwen2", layers=4)
    draft = checkpoints.write_hugging_face(folder / "draft", "qwen2", layers=2)
    with CloudProcess(str(target)) as cloud:
        cloud.wait_until_ready()
        yield ["--server", cloud.address, "--draft", str(draft), "--max-tokens", "24"]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "utf8", str(DEMOS / program), *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("program", "how", "said"),
    [
        ("one_prompt.py", [], "drafted tokens were confirmed"),
        ("asyncio_two_prompts.py", [], "[sea] ("),
        ("watch_the_planner.py", [], "the same text both times"),
        ("control_loop.py", ["--break-at-s", "0.1", "--break-s", "0.7"], "the plan is the undisturbed one"),
    ],
)
def test_it_runs(options: list[str], program: str, how: list[str], said: str) -> None:
    done = run(program, *options, *how)
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout


@pytest.mark.parametrize("program", sorted(path.name for path in DEMOS.glob("*.py")))
def test_nobody_there(options: list[str], program: str) -> None:
    done = run(program, *options, "--server", "tcp://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no answer from ")
    assert len(done.stderr.splitlines()) == 1
