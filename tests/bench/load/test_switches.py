"""``foredraft bench switches``: off and on take turns, and what the switch bets on is counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_world import VOCABULARY

from foredraft_bench.load import switches
from foredraft_bench.load.device import Habits, KnownText
from foredraft_bench.load.exchange import InProcess
from foredraft_bench.load.pattern import independent
from foredraft_bench.load.rows import Row, learn, measure
from foredraft_bench.load.setting import Setting
from foredraft_cloud.engine import EngineOptions
from foredraft_cloud.toy import ToyTarget
from foredraft_shared.errors import UsageError
from foredraft_shared.messages import SamplingParams

pytestmark = pytest.mark.timeout(60)


def texts(count: int, max_tokens: int) -> list[KnownText]:
    return [KnownText((5, 6, index), SamplingParams(), max_tokens) for index in range(1, count + 1)]


@contextmanager
def served_by_toy(setting: Setting, *rest: object) -> Iterator[InProcess]:
    exits = (4,) if setting.exits == "none" else (2, 3, 4)
    yield InProcess(
        ToyTarget(vocabulary=VOCABULARY, exits=exits),
        EngineOptions(drop_confidence=setting.drop_confidence),
    )


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switches, "open_model", lambda model: None)
    monkeypatch.setattr(switches, "known_texts", lambda model, count, max_tokens: texts(count, max_tokens))
    monkeypatch.setattr(switches, "serving", served_by_toy)
    monkeypatch.setattr(switches, "stop_on_termination", lambda: None)
    monkeypatch.setattr(switches, "pin", lambda process, cores: None)


def a_row() -> Row:
    with served_by_toy(Setting("", "", 1, 1, 99)) as exchange:
        known = texts(1, 8)
        learn(exchange, known)
        return measure(exchange, known, 1, Habits(), independent(1.0), seconds=0.05, warm_up_s=0.0)


def test_turns_alternate_which_goes_first_and_the_ratio_is_of_medians():
    row, asked = a_row(), []

    def run(on: bool) -> Row:
        asked.append(on)
        return replace(row, tokens_per_second=(20.0 if on else 10.0) * len(asked))

    found = switches.in_turns("chaining", 2, 20.0, 2, run)
    assert asked == [False, True, True, False]
    assert found.ratio == pytest.approx(50.0 / 25.0)  # 40 and 60 on, 10 and 40 off
    assert found.spread == pytest.approx((1.5, 4.0))


@pytest.mark.usefixtures("toy")
def test_both_switches_are_compared_and_their_hits_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "switches.json"
    switches.switches(
        switch=["chaining", "dropping"], sessions="2", rtt_ms="4,8", exits="2,3", drop_confidence=0.0, acceptance=0.85,
        token_ms=0.0, turns=1, seconds=0.15, warm_up=0.02, max_tokens=16, json_file=path,
    )  # fmt: skip
    report = json.loads(path.read_text())
    chained, _, dropped, _ = report["rows"]
    assert [(row["switch"], row["rtt_ms"]) for row in report["rows"]] == [
        ("chaining", 4.0), ("chaining", 8.0), ("dropping", 4.0), ("dropping", 8.0),
    ]  # fmt: skip
    assert chained["off"][0]["chained"] == 0 < chained["on"][0]["chained_hits"] < chained["on"][0]["chained"]
    assert dropped["off"][0]["rows_dropped"] == 0 < dropped["on"][0]["rows_dropped"] < dropped["on"][0]["rows"]
    assert report["dropping"] == {"exits": "2,3", "heads": None, "drop_confidence": 0.0}
    said = capsys.readouterr().out
    assert said.count("chained drafts hit") == 2
    assert said.count("rows dropped; wrongly") == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"switch": ["speed"]},
        {"switch": ["dropping"]},
        {"rtt_ms": "near"},
        {"rtt_ms": "-1"},
        {"sessions": "0"},
        {"acceptance": 1.5},
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_started(wrong: dict[str, Any]):
    with pytest.raises(UsageError):
        switches.switches(**wrong)
