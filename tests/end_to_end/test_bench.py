"""``foredraft bench`` as a person runs it: real processes, real sockets, small models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import checkpoints
import pytest

from foredraft_bench.comparison.document import Report, read_report
from foredraft_bench.peers.mode import PEERS


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a target and a draft, which is its first half."""
    folder = tmp_path_factory.mktemp("pair")
    target = checkpoints.write_hugging_face(folder / "target", "qwen2", layers=4)
    draft = checkpoints.write_hugging_face(folder / "draft", "qwen2", layers=2)
    return ["--target", str(target), "--draft", str(draft), "--offline"]


def start(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "XDG_CONFIG_HOME": str(folder), "COLUMNS": "120"}
    return subprocess.Popen(
        [sys.executable, "-m", "foredraft_shared", "bench", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # as from a shell: Ctrl-C goes to this group
    )


def run(*arguments: str, folder: Path, timeout_s: float = 110) -> tuple[int, str, str]:
    process = start(*arguments, folder=folder)
    try:
        out, errors = process.communicate(timeout=timeout_s)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert "Traceback" not in out + errors
    return process.returncode, out, errors


def assert_whole(report: Report) -> None:
    """Every lossless mode wrote the same, and every figure that must be there is there."""
    assert report.differences == []
    assert report.cells
    for cell in report.cells:
        texts = {name: {(s.prompt, s.tokens) for s in samples} for name, samples in cell.samples.items()}
        for told in report.modes:
            if told.lossless and told.name in texts:
                assert texts[told.name] <= texts["cloud"], told.name
        for name, figures in cell.figures().items():
            assert figures.ms_per_token is None or figures.ms_per_token.lowest > 0
            assert figures.fluidity_index is not None
            if name != "edge":
                assert figures.bytes_up_per_token
                assert figures.limit is not None
                measured = [s for s in cell.samples[name] if s.parts is not None]
                for sample in measured:
                    assert sample.parts is not None
                    took_ms = sample.arrived_ms[-1] - sample.arrived_ms[0]
                    assert sample.parts.total_ms == pytest.approx(took_ms, abs=0.02)


def test_lengths_devices_and_hints(pair: list[str], tmp_path: Path) -> None:
    out = tmp_path / "report"
    code, said, errors = run(
        *("run", *pair, "--rtt", "2,20", "--lengths", "8,12", "--concurrency", "1,2", "--repeats", "1"),
        *("--modes", "cloud,ahead,auto", "--exits", "2", "--temperature", "0.8", "--out", str(out)),
        folder=tmp_path,
    )
    assert code == 0, said + errors
    report = read_report(out / "report.json")
    assert_whole(report)
    assert report.complete
    assert len(report.cells) == report.planned_cells == 8
    assert {cell.network for cell in report.cells} == {"2ms", "20ms"}
    two = next(cell for cell in report.cells if cell.devices == 2)
    assert {sample.device for sample in two.samples["ahead"]} == {0, 1}
    assert set(two.peak_memory_mib) == {"edge", "cloud", "network"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "number of devices" in page
    assert "identical tokens" in (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_quick_form(pair: list[str], tmp_path: Path) -> None:
    code, said, errors = run("--quick", *pair, "--out", str(tmp_path / "report"), folder=tmp_path, timeout_s=900)
    assert code == 0, said + errors
    assert_all_modes_over_the_three_networks(read_report(tmp_path / "report" / "report.json"))


def assert_all_modes_over_the_three_networks(report: Report) -> None:
    assert_whole(report)
    assert report.complete
    assert [cell.network for cell in report.cells] == ["lan", "5g", "lte"]
    for cell in report.cells:
        assert set(cell.samples) | (cell.skipped.keys() - PEERS.keys()) == {told.name for told in report.modes}
        assert "gives no hints" in cell.skipped["hintless"]


def test_all_modes_and_a_comparison_with_itself(pair: list[str], tmp_path: Path) -> None:
    out = tmp_path / "report"
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Why?"}\n')
    code, said, errors = run(
        *("run", *pair, "--lengths", "8", "--repeats", "1", "--prompts", str(tmp_path / "prompts.jsonl")),
        *("--past-the-end", "--out", str(out)),
        folder=tmp_path,
    )
    assert code == 0, said + errors
    assert "Report: " in said
    report = read_report(out / "report.json")
    assert_all_modes_over_the_three_networks(report)
    assert [set(cell.peers) | (cell.skipped.keys() & PEERS.keys()) for cell in report.cells] == [
        set(PEERS),
        set(),
        set(),
    ]
    for name in ("transformers", "assisted"):
        assert [len(sample.tokens) for sample in report.cells[0].peers[name]] == [8]
    file = str(out / "report.json")
    code, said, errors = run("compare", file, file, "--fail-above", "1", folder=tmp_path)
    assert code == 0, said + errors
    assert "1.000" in said
    document = json.loads((out / "report.json").read_text())
    for cell in document["cells"]:
        for samples in cell["samples"].values():
            for sample in samples:
                sample["arrived_ms"] = [2 * instant for instant in sample["arrived_ms"]]
    (out / "slower.json").write_text(json.dumps(document))
    code, said, errors = run("compare", file, str(out / "slower.json"), "--fail-above", "50", folder=tmp_path)
    assert code == 1, said + errors
    assert "too much" in said


def test_ctrl_c_leaves_what_was_measured(pair: list[str], tmp_path: Path) -> None:
    out = tmp_path / "report"
    process = start(
        *("run", *pair, "--rtt", "1,500", "--lengths", "40", "--repeats", "1", "--modes", "cloud,waiting"),
        *("--past-the-end", "--out", str(out)),
        folder=tmp_path,
    )
    deadline = time.monotonic() + 90
    while not (out / "report.json").exists():  # the first cell is done
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, said + errors
    assert "Traceback" not in said + errors
    assert "Partial report" in said
    report = read_report(out / "report.json")
    assert_whole(report)
    assert not report.complete
    assert len(report.cells[0].samples) == 2
    assert "A partial report" in (out / "report.html").read_text(encoding="utf-8")


def test_when_the_time_is_up_it_stops_with_what_there_is(pair: list[str], tmp_path: Path) -> None:
    out = tmp_path / "report"
    code, said, errors = run(
        *("run", *pair, "--rtt", "300", "--lengths", "40", "--modes", "cloud,remote", "--past-the-end"),
        *("--minutes", "0.2", "--out", str(out)),
        folder=tmp_path,
    )
    assert code == 0, said + errors
    assert "The 0.2 minutes are over" in errors
    assert "Partial report" in said
    report = read_report(out / "report.json")
    assert not report.complete
    assert 1 <= len(report.cells[0].samples["cloud"]) < 6


@pytest.mark.parametrize(
    ("arguments", "complaint", "code"),
    [
        ([], "Usage: foredraft bench", 2),
        (["--quick", "--full"], "error: --quick and --full exclude each other", 2),
        (["--quick", "engine"], "error: --quick and --full stand alone", 2),
        (["run", "--modes", "fast"], "error: there is no mode 'fast'; choose from", 2),
        (["run", "--profiles", "moon"], "error: there is no network 'moon'", 2),
        (["run", "--lengths", "0"], "error: --lengths has '0'", 2),
        (["run", "--concurrency", "two"], "error: --concurrency has 'two'", 2),
        (["run", "--rtt", "soon"], "error: --rtt has 'soon'", 2),
        (["run", "--dtype", "int3"], "error: dtype is 'int3'", 2),
        (["run", "--prompts", "missing.jsonl"], "error: cannot read the prompts missing.jsonl", 2),
        (["run", "--out", "/proc/report"], "error: cannot write into /proc/report", 2),
        (["compare", "missing.json", "missing.json"], "error: cannot read the report missing.json", 2),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str], complaint: str, code: int, tmp_path: Path
) -> None:
    found, said, errors = run(*arguments, folder=tmp_path)
    assert complaint in said + errors
    assert found == code


def test_an_answer_longer_than_the_context_is_refused_at_once(pair: list[str], tmp_path: Path) -> None:
    code, said, errors = run("run", *pair, "--lengths", "100000", "--out", str(tmp_path / "out"), folder=tmp_path)
    assert code == 1 or code == 2
    assert "lower --lengths" in errors, said + errors
    assert not (tmp_path / "out" / "report.json").exists()
