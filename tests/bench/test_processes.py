"""Which core for whom, and a cloud that cannot start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foredraft_bench.processes import CloudProcess, Cores, choose_cores, watching
from foredraft_shared.errors import LinkError, UsageError


@pytest.mark.parametrize(
    ("allowed", "siblings", "expected"),
    [
        ([0], {}, Cores()),
        ([0, 1], {}, Cores((0,), (1,))),
        ([0, 1], {0: "0-1"}, Cores((0,), (1,))),  # two threads of one core are better than one thread
        ([0, 1, 2, 3], {0: "0-1"}, Cores((0,), (2,))),
        ([2, 3, 6, 7], {2: "2,6"}, Cores((2,), (3,))),
    ],
)
def test_each_side_gets_a_core(tmp_path: Path, allowed: list[int], siblings: dict[int, str], expected: Cores) -> None:
    for core, text in siblings.items():
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    assert choose_cores(allowed, tmp_path) == expected


def test_cores_in_words() -> None:
    assert Cores((0,), (3,)).describe("cloud") == "on core 3"
    assert Cores().describe("edge") == "on a core that both share"


def test_a_cloud_that_cannot_start_says_why_in_its_own_words(tmp_path: Path) -> None:
    missing = tmp_path / "missing.gguf"
    with CloudProcess(str(missing)) as cloud, pytest.raises(LinkError) as caught:
        cloud.wait_until_ready()
    assert str(caught.value).startswith("the cloud stopped: ")
    assert "missing.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cloud_asked_wrongly_is_a_usage_error() -> None:
    with CloudProcess("smollm2-135m", ["--dtype", "float64"]) as cloud, pytest.raises(UsageError, match="float64"):
        cloud.wait_until_ready()


def test_a_cloud_that_is_killed_interrupts_at_once() -> None:
    with CloudProcess("smollm2-135m") as cloud:
        os.kill(cloud.pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(LinkError, match=r"was killed \(SIGKILL\)"), watching(cloud):
            time.sleep(30)
    assert time.monotonic() - began < 10


def test_a_tethered_process_dies_with_its_parent(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib\n"
            "from foredraft_bench.processes import CloudProcess\n"
            "cloud = CloudProcess('smollm2-135m')\n"
            f"pathlib.Path({str(note)!r}).write_text(str(cloud.pid))\n"
            "time.sleep(60)",
        ]
    )
    deadline = time.monotonic() + 30
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int(note.read_text())
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
