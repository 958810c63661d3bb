"""Simulated devices: they draft as told, write what the target says, and notice when it says something else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_world import VOCABULARY, continuation

from foredraft_bench.load import command
from foredraft_bench.load.device import Device, Habits, KnownText
from foredraft_bench.load.driving import Drive
from foredraft_bench.load.exchange import InProcess
from foredraft_bench.load.pattern import Pattern, independent, recorded
from foredraft_bench.load.rows import Row, WrongText, learn, markdown, measure
from foredraft_bench.load.setting import Setting
from foredraft_cloud.engine import EngineOptions
from foredraft_cloud.toy import ToyTarget
from foredraft_shared.errors import ServerRefused, UsageError
from foredraft_shared.messages import Draft, Open, SamplingParams, Verdict
from foredraft_shared.traces import RoundRecord, TraceWriter

pytestmark = pytest.mark.timeout(60)

SAMPLINGS = (SamplingParams(), SamplingParams(temperature=0.8, top_p=0.95, seed=3))


def exchange(**options: Any) -> InProcess:
    return InProcess(ToyTarget(vocabulary=VOCABULARY, exits=(4,)), EngineOptions(**options))


def texts(count: int, max_tokens: int = 12) -> list[KnownText]:
    return [KnownText((5, 6, index), SAMPLINGS[index % 2], max_tokens) for index in range(1, count + 1)]


def write(into: InProcess, known: list[KnownText], habits: Habits, pattern: Pattern, devices: int = 4) -> list[Device]:
    now = time.perf_counter()
    writers = [
        Device(number, known, habits, pattern, start_at=now + 0.01 * number, count=3, keep=True)
        for number in range(devices)
    ]
    Drive(into, writers, rtt_s=0.002).until_done()
    return writers


def test_what_is_learnt_is_the_targets_own_text():
    known = texts(5)
    learn(exchange(), known)
    assert [list(text.truth) for text in known] == [continuation(text.prompt, text.sampling, 12) for text in known]
    learn(exchange(), known, alone=True)


HABITS = {
    "waiting": Habits(ahead=False),
    "ahead": Habits(token_s=0.001),
    "chained": Habits(window=2),
    "chained deeply, slowly": Habits(window=4, draft_length=2, token_s=0.0005),
    "empty drafts": Habits(draft_length=0),
    "long drafts": Habits(draft_length=32),
    "the cloud alone": Habits("cloud"),
}


@pytest.mark.parametrize("acceptance", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("habits", HABITS.values(), ids=HABITS)
def test_however_devices_draft_they_write_the_targets_text(habits: Habits, acceptance: float):
    into, known = exchange(), texts(4)
    learn(into, known)
    for device in write(into, known, habits, independent(acceptance)):
        assert (device.seen.texts, device.seen.wrong) == (3, 0)
        assert all(written == text.truth for text, written in device.seen.written)


def test_drafts_are_accepted_as_the_pattern_says():
    into, known = exchange(), texts(4, max_tokens=200)
    learn(into, known)
    devices = write(into, known, Habits(draft_length=1, ahead=False), independent(0.6, seed=1))
    drafted = sum(device.seen.drafted for device in devices)
    assert drafted > 500
    assert sum(device.seen.accepted for device in devices) / drafted == pytest.approx(0.6, abs=0.06)


def test_a_chained_draft_leaves_before_the_verdict_and_saves_its_wait():
    into, known = exchange(), texts(1, max_tokens=40)
    learn(into, known)
    now = time.perf_counter()
    device = Device(0, known, Habits(window=2, draft_length=3), independent(1.0), start_at=now)
    said = list(device.speak(now))
    assert [type(message) for message in said] == [Open, Draft, Draft]
    first, second = said[1:]
    assert isinstance(first, Draft)
    assert isinstance(second, Draft)
    assert second.base == first.base + 4


def test_a_device_takes_its_time_to_draft():
    into, known = exchange(), texts(1)
    learn(into, known)
    device = Device(0, known, Habits(draft_length=4, token_s=0.25, ahead=False), independent(1.0), start_at=10.0)
    assert [type(message) for message in device.speak(10.0)] == [Open]
    assert device.due == 11.0
    assert [type(message) for message in device.speak(11.0)] == [Draft]
    assert device.due == 10.0 + Habits().repeat_s  # then it says the draft again


class Forgetful(InProcess):
    """Drops every session now and then."""

    heard = 0

    def send(self, device: int, message: Any) -> None:
        self.heard += 1
        if self.heard % 25 == 0:
            self._engine.forget_device("")
        super().send(device, message)


def test_a_text_that_the_server_forgot_is_resumed_and_ends_as_it_would_have():
    into, known = Forgetful(ToyTarget(vocabulary=VOCABULARY, exits=(4,)), EngineOptions()), texts(4)
    learn(exchange(), known)
    devices = write(into, known, Habits(draft_length=2, token_s=0.001, repeat_s=0.1), independent(0.5))
    assert sum(device.seen.resumes for device in devices) > 0
    assert all((device.seen.texts, device.seen.wrong) == (3, 0) for device in devices)


def test_a_server_that_is_full_is_asked_again_later():
    into, known = exchange(max_sessions=2), texts(4)
    learn(exchange(), known)
    now = time.perf_counter()
    devices = [Device(number, known, Habits(), independent(0.9), start_at=now, count=1) for number in range(3)]
    Drive(into, devices).until_done()
    assert sum(device.seen.refusals for device in devices) >= 1
    assert all((device.seen.texts, device.seen.wrong) == (1, 0) for device in devices)


def test_a_refusal_that_waiting_does_not_mend_ends_the_load():
    with pytest.raises(ServerRefused, match="vocabulary"):
        learn(exchange(), [KnownText((VOCABULARY,), SAMPLINGS[0], 4)])


def test_a_wrong_token_is_noticed():
    into, known = exchange(), texts(2)
    learn(into, known)
    known[1].truth = (*known[1].truth[:-1], known[1].truth[-1] ^ 1)
    with pytest.raises(WrongText, match="target's own"):
        measure(into, known, 2, Habits(), independent(0.9), seconds=0.2, warm_up_s=0.05)
    with pytest.raises(WrongText, match="alone"):
        learn(into, known, alone=True)


def test_a_row_is_what_devices_and_server_saw():
    into, known = exchange(), texts(6)
    learn(into, known)
    row = measure(into, known, 3, Habits(draft_length=3), independent(1.0), seconds=0.4, warm_up_s=0.1)
    assert row.tokens_per_second == pytest.approx(row.tokens / row.seconds)
    assert row.accepted_per_round == pytest.approx(2.75, abs=0.3)  # texts of 12: three whole drafts, then what is left
    assert row.round_p50_ms is not None
    assert row.round_p95_ms is not None
    assert 0.0 < row.round_p50_ms <= row.round_p95_ms
    assert row.sessions_per_pass is not None
    assert 1.0 <= row.sessions_per_pass <= 3.0
    assert row.outside_share is not None
    assert 0.0 < row.outside_share < 1.0
    cloud = measure(into, known, 3, Habits("cloud"), independent(1.0), seconds=0.4, warm_up_s=0.1)
    assert (cloud.accepted_per_round, cloud.mode) == (None, "cloud")
    lines = markdown([row, cloud])
    assert len(lines) == 4
    assert lines[2].startswith("| speculate | 3 | ")
    assert len({line.count("|") for line in lines}) == 1


def test_a_measurement_lasts_until_every_session_has_ended_a_text_but_not_for_ever():
    into, known = exchange(), texts(3)
    learn(into, known)
    habits = Habits(draft_length=2, ahead=False, token_s=0.01)  # a text takes 0.1 s or so
    row = measure(into, known, 3, habits, independent(1.0), seconds=0.06, warm_up_s=0.01)
    assert row.texts >= 3 or row.seconds >= 0.24
    assert row.seconds > 0.06
    endless = measure(into, known, 3, Habits(token_s=0.2, ahead=False), independent(1.0), seconds=0.05, warm_up_s=0.01)
    assert endless.seconds == pytest.approx(0.2, abs=0.15)


def test_a_recorded_pattern_repeats_what_drafts_came_to(tmp_path: Path):
    with TraceWriter(tmp_path / "run.jsonl") as writer:
        for accepted, drafted in ((4, 4), (1, 3), (0, 2)):
            writer.write(RoundRecord(session="s", round=1, drafted=drafted, accepted=accepted))
        writer.write(RoundRecord(session="s", round=2, kind="cloud", accepted=0))
    pattern = recorded(tmp_path / "run.jsonl")
    assert pattern.hits == (True, True, True, True, True, False, False)
    assert pattern.hit(0, 5) is pattern.hit(0, 12) is False
    with TraceWriter(tmp_path / "empty.jsonl"):
        pass
    with pytest.raises(UsageError, match="--trace"):
        recorded(tmp_path / "empty.jsonl")
    with pytest.raises(UsageError, match="from 0 to 1"):
        independent(1.5)


def test_a_server_is_started_with_what_was_asked_for():
    plain = Setting("m", "float32", 2, 4, 100)
    assert plain.options == [
        "--dtype", "float32", "--threads", "2", "--context", "100", "--max-sessions", "5", "--exits", "none",
    ]  # fmt: skip
    dropping = replace(plain, exits=None, heads="h.safetensors", drop_confidence=0.9, cache_mib=7)
    assert dropping.options[8:] == ["--heads", "h.safetensors", "--drop-confidence", "0.9", "--cache-mib", "7"]


@contextmanager
def served_by_toy(*arguments: object) -> Iterator[InProcess]:
    yield exchange()


@pytest.fixture
def toy_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_model", lambda model: None)
    monkeypatch.setattr(command, "known_texts", lambda model, count, max_tokens, prompts: texts(count, max_tokens))
    monkeypatch.setattr(command, "serving", served_by_toy)
    monkeypatch.setattr(command, "stop_on_termination", lambda: None)
    monkeypatch.setattr(command, "pin", lambda process, cores: None)


@pytest.mark.usefixtures("toy_load")
def test_the_file_holds_a_row_for_each_mode_and_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "load.json"
    command.load(sessions="1,3", seconds=0.2, warm_up=0.05, max_tokens=8, check=True, json_file=path)
    report = json.loads(path.read_text())
    assert report["complete"] is True
    assert [(row["mode"], row["sessions"]) for row in report["rows"]] == [
        ("speculate", 1), ("speculate", 3), ("cloud", 1), ("cloud", 3),
    ]  # fmt: skip
    assert all(row["tokens_per_second"] > 0 and row["round_p95_ms"] > 0 for row in report["rows"])
    assert report["pattern"]["acceptance"] == pytest.approx(0.8, abs=0.03)
    assert len(capsys.readouterr().out.strip().splitlines()) == 6


@pytest.mark.usefixtures("toy_load")
def test_stopped_in_the_middle_it_leaves_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows: list[Row] = []

    def interrupted(*arguments: Any, **options: Any) -> Row:
        if rows:
            raise KeyboardInterrupt
        rows.append(measure(*arguments, **options))
        return rows[0]

    monkeypatch.setattr(command, "measure", interrupted)
    path = tmp_path / "load.json"
    with pytest.raises(KeyboardInterrupt):
        command.load(sessions="1,2", seconds=0.1, warm_up=0.05, max_tokens=8, json_file=path)
    report = json.loads(path.read_text())
    assert (report["complete"], len(report["rows"])) == (False, 1)


@pytest.mark.parametrize("wrong", [{"sessions": "0"}, {"sessions": "a,b"}, {"modes": "edge"}, {"acceptance": 2.0}])
def test_what_cannot_be_measured_is_said_before_anything_is_started(wrong: dict[str, Any]):
    with pytest.raises(UsageError):
        command.load(**wrong)


def test_verdicts_of_a_text_given_up_change_nothing():
    known = texts(1)
    learn(exchange(), known)
    device = Device(0, known, Habits(), independent(1.0), start_at=0.0)
    list(device.speak(0.0))
    assert list(device.hear(Verdict(bytes(16), 1, 1, 3, 0, 1), 0.1)) == []
    assert device.seen.commits == []
