"""``foredraft demo`` as a person runs it: real processes, real sockets, small models."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import checkpoints
import pytest

from foredraft_shared.models import Model
from foredraft_shared.traces import read_trace

MARK = "FOREDRAFT_TEST_MARK"


@dataclass
class Demo:
    """A running ``foredraft demo``; whatever it starts carries its mark in the environment."""

    arguments: list[str]
    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.said = self.folder / f"{self.mark}.out"
        self.complained = self.folder / f"{self.mark}.err"
        # Few threads and no configuration of the person who runs the tests.
        environment = {**os.environ, MARK: self.mark, "XDG_CONFIG_HOME": str(self.folder), "COLUMNS": "80"}
        with self.said.open("wb") as said, self.complained.open("wb") as complained:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "foredraft_shared", "demo", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=complained,
                env=environment,
                start_new_session=True,  # as from a shell: Ctrl-C goes to this group
            )

    def wait(self, timeout_s: float = 90.0) -> int:
        return self.process.wait(timeout_s)

    def wait_for(self, text: str, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.output + self.errors:
            assert self.process.poll() is None, f"ended before {text!r}: {self.output}{self.errors}"
            assert time.monotonic() < deadline, f"never said {text!r}: {self.output}{self.errors}"
            time.sleep(0.02)

    @property
    def output(self) -> str:
        return self.said.read_text(errors="replace")

    @property
    def errors(self) -> str:
        return self.complained.read_text(errors="replace")

    def processes(self, command: str = "") -> list[int]:
        """Living processes that the demo started, itself included."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                marked = f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
                named = command.encode() in (folder / "cmdline").read_bytes()
                zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            if marked and named and not zombie:
                found.append(int(folder.name))
        return found

    def assert_nothing_left(self) -> None:
        deadline = time.monotonic() + 10
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.processes() == []
        assert "Traceback" not in self.output + self.errors


Start = Callable[..., Demo]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    demos: list[Demo] = []

    def begin(*arguments: str) -> Demo:
        demos.append(Demo(list(arguments), tmp_path))
        return demos[-1]

    yield begin
    for demo in demos:
        for process in demo.processes():
            os.kill(process, signal.SIGKILL)
        demo.process.wait()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """A target and a draft, which is its first half, for each kind of source."""
    folder = tmp_path_factory.mktemp("pairs")
    made = {}
    for family in ("qwen2", "qwen3"):
        target = checkpoints.write_hugging_face(folder / f"{family} target", family, layers=4)
        draft = checkpoints.write_hugging_face(folder / f"{family} draft", family, layers=2)
        made[family] = (str(target), str(draft))
        made[f"{family}-gguf"] = (
            str(checkpoints.write_gguf(target, folder / f"{family}-target.gguf")),
            str(checkpoints.write_gguf(draft, folder / f"{family}-draft.gguf")),
        )
    return made


SHORT = ["--rtt-ms", "5", "--max-tokens", "12", "--offline"]
SLOW = ["--rtt-ms", "300", "--max-tokens", "400", "--offline"]


@pytest.mark.parametrize(
    ("pair", "temperature", "dtype"),
    [
        ("qwen2", "0", "float32"),
        ("qwen2", "0.8", "bfloat16"),
        ("qwen3", "0.8", "float32"),
        ("qwen2-gguf", "0.8", "float32"),
        ("qwen3-gguf", "0", "bfloat16"),
    ],
)
def test_any_pair_writes_the_same_in_every_mode(
    start: Start, pairs: dict[str, tuple[str, str]], tmp_path: Path, pair: str, temperature: str, dtype: str
) -> None:
    target, draft = pairs[pair]
    file = tmp_path / "report.json"
    demo = start(
        *("--target", target, "--draft", draft, "--dtype", dtype, "--temperature", temperature, "--top-p", "0.95"),
        *("--seed", "3", "--exits", "2", "--json", str(file), *SHORT),
    )
    assert demo.wait() == 0, demo.output + demo.errors
    demo.assert_nothing_left()
    check_report(json.loads(file.read_text()), most=12)
    assert "All modes wrote identical tokens" in demo.output
    assert "\x1b" not in demo.output


def check_report(report: dict[str, Any], most: int) -> None:
    assert report["identical"] is True
    assert [mode["name"] for mode in report["modes"]] == ["cloud", "waiting", "ahead"]
    cloud, waiting, ahead = report["modes"]
    assert cloud["tokens"] == waiting["tokens"] == ahead["tokens"]
    assert all(1 <= len(tokens) <= most for tokens in cloud["tokens"])
    assert len(cloud["tokens"]) == len(report["settings"]["prompts"]) == 3
    for mode in report["modes"]:
        assert mode["ttft_ms"] > 0
        assert mode["bytes_per_token"] > 0
        assert mode["p95_gap_ms"] is None or mode["p95_gap_ms"] >= mode["p50_gap_ms"] >= 0
        assert 0 < mode["cloud_passes_per_token"] <= 1
        assert all(sorted(times) == times for times in mode["arrived_ms"])
    assert cloud["cloud_passes_per_token"] == 1
    assert cloud["accepted_per_round"] == 0


def test_the_real_model_with_traces(start: Start, smollm2: Model, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    demo = start("--max-tokens", "10", "--json", str(file), "--trace", str(tmp_path / "traces"), "--exits", "20")
    assert demo.wait() == 0, demo.output + demo.errors
    demo.assert_nothing_left()
    report = json.loads(file.read_text())
    check_report(report, most=10)
    assert "Paris" in report["modes"][0]["texts"][0]
    assert "as slow as one larger than its draft" in demo.output
    figures = demo.output.rpartition("ms per token)")[2].partition("Traces are")[0]
    assert max(map(len, figures.splitlines())) <= 80
    for name in ("cloud", "waiting", "ahead"):
        trace = read_trace(tmp_path / "traces" / f"{name}.jsonl")
        committed = sum(record.committed for record in trace.rounds)
        assert committed == sum(len(tokens) for tokens in report["modes"][0]["tokens"])
        assert trace.header.labels["mode"] == name
        drawing = json.loads((tmp_path / "traces" / f"{name}.json").read_text())
        assert len({event["pid"] for event in drawing["traceEvents"]}) == 3  # one session a prompt


def test_prompts_from_a_file_and_a_choice_of_modes(
    start: Start, pairs: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    target, _ = pairs["qwen2"]
    (tmp_path / "prompts.jsonl").write_text('{"turns": ["Why?", "Why not?"]}\n{"prompt": "Straße"}\n')
    file = tmp_path / "report.json"
    demo = start(
        *("--target", target, "--draft", "ngram", "--prompts", str(tmp_path / "prompts.jsonl")),
        *("--modes", "ahead,cloud", "--json", str(file), *SHORT),
    )
    assert demo.wait() == 0, demo.output + demo.errors
    report = json.loads(file.read_text())
    assert report["settings"]["prompts"] == ["Why?", "Straße"]
    assert [mode["name"] for mode in report["modes"]] == ["cloud", "ahead"]
    assert report["identical"] is True


@pytest.mark.parametrize(
    ("arguments", "complaint", "code"),
    [
        (["--prompts", "BROKEN"], r"error: line 2 of .*broken.jsonl is not UTF-8 .*save the file as UTF-8", 2),
        (["--modes", "cloud,fast"], r"error: there is no mode 'fast'; choose from cloud, waiting, hintless, ahead", 2),
        (["--dtype", "int3"], r"error: dtype is 'int3'; choose bfloat16, float32 or w8a8", 2),
        (["--temperature", "-1"], r"error: temperature is -1.0; give", 2),
        (["--top-p", "0"], r"error: top_p is 0.0; give", 2),
        (["--json", "/nowhere/at/all.json"], r"error: cannot write /nowhere/at/all.json: there is no folder", 2),
        (["--target", "/nowhere/at/all.gguf"], r"error: /nowhere/at/all.gguf: no such file", 1),
        (["--exits", "99"], r"error: the cloud stopped: .*99", None),
        (["--draft", "/nowhere/at/all.gguf"], r"error: /nowhere/at/all.gguf: no such file", 1),
        (["--draft", "OTHER"], r"error: .*different tokenizers", 1),
        (["--max-tokens", "5000"], r"error: prompt 1 has \d+ tokens and 5000 more .* lower --max-tokens", 2),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    start: Start,
    pairs: dict[str, tuple[str, str]],
    tmp_path: Path,
    arguments: list[str],
    complaint: str,
    code: int | None,
) -> None:
    target, draft = pairs["qwen2"]
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(b'{"prompt": "Why?"}\n{"prompt": "Stra\xdfe?"}\n')
    other = {"BROKEN": str(broken), "OTHER": str(checkpoints.write_hugging_face(tmp_path / "other", "llama"))}
    arguments = [other.get(each, each) for each in arguments]
    demo = start("--target", target, "--draft", draft, *SHORT, *arguments)
    ended = demo.wait()
    assert ended == code if code is not None else ended in (1, 2), demo.output + demo.errors
    demo.assert_nothing_left()
    lines = [line for line in demo.errors.splitlines() if "…" not in line]
    assert len(lines) == 1, demo.errors
    assert re.search(complaint, lines[0]), lines[0]


@pytest.mark.parametrize("phase", ["loading the target", "warming up", "[edge + cloud, drafting ahead]"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_any_phase_it_leaves_nothing(
    start: Start, pairs: dict[str, tuple[str, str]], phase: str, number: signal.Signals
) -> None:
    target, draft = pairs["qwen2"]
    demo = start("--target", target, "--draft", draft, "--modes", "ahead", *SLOW)
    demo.wait_for(phase)
    if number == signal.SIGINT:
        os.killpg(demo.process.pid, number)
    else:
        demo.process.send_signal(number)
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert demo.wait(20) == expected, demo.output + demo.errors
    demo.assert_nothing_left()


@pytest.mark.parametrize(("victim", "complaint"), [("tethered", "cloud's process was killed"), ("link", "link emul")])
def test_a_part_that_dies_in_the_middle_ends_it_at_once(
    start: Start, pairs: dict[str, tuple[str, str]], victim: str, complaint: str
) -> None:
    target, draft = pairs["qwen2"]
    demo = start("--target", target, "--draft", draft, "--modes", "waiting", *SLOW)
    demo.wait_for("[edge + cloud, waiting]")
    (process,) = demo.processes(victim)
    os.kill(process, signal.SIGKILL)
    assert demo.wait(10) == 1, demo.output + demo.errors
    demo.assert_nothing_left()
    assert complaint in demo.errors.splitlines()[-1]
