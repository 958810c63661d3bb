"""Comparing modes: where they part, the table, the JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from foredraft_bench.metrics import Answer
from foredraft_bench.report import as_json, check_writable, first_difference, table, write_atomically
from foredraft_bench.runs import in_time, schedule
from foredraft_shared.errors import UsageError


def answer(tokens: list[int], step_ms: float = 10.0) -> Answer:
    return Answer(tuple(tokens), tuple(100 + step_ms * index for index in range(len(tokens))), text="…", finish="stop")


def test_identical() -> None:
    assert first_difference({"cloud": [answer([1, 2])], "ahead": [answer([1, 2], 4.0)]}) is None
    assert first_difference({"cloud": [answer([1, 2])]}) is None


def test_where_modes_part() -> None:
    answers = {
        "cloud": [answer([1, 2]), answer([3, 4, 5])],
        "waiting": [answer([1, 2]), answer([3, 4, 5])],
        "ahead": [answer([1, 2]), answer([3, 9, 5])],
    }
    difference = first_difference(answers)
    assert difference is not None
    assert difference.describe({4: "four", 9: "nine"}.__getitem__) == (
        "prompt 2, token 2: cloud wrote 'four' (4), ahead wrote 'nine' (9)"
    )


def test_a_text_that_ends_early_differs() -> None:
    difference = first_difference({"cloud": [answer([1, 2])], "ahead": [answer([1])]})
    assert difference is not None
    assert difference.describe(str) == "prompt 1, token 2: cloud wrote '2' (2), ahead ended"


def test_json(tmp_path: Path) -> None:
    answers = {"cloud": [answer([1, 2, 3], 12.0)], "ahead": [answer([1, 2, 4], 4.0)]}
    report = as_json(answers, {"seed": 7})
    assert report["identical"] is False
    assert report["settings"] == {"seed": 7}
    assert [mode["name"] for mode in report["modes"]] == ["cloud", "ahead"]
    ahead = report["modes"][1]
    assert ahead["tokens"] == [[1, 2, 4]]
    assert (ahead["ms_per_token"], ahead["ttft_ms"], ahead["p95_gap_ms"], ahead["speed_up"]) == (4.0, 100.0, 4.0, 3.0)
    assert {"accepted_per_round", "bytes_per_token", "cloud_passes_per_token"} <= ahead.keys()

    file = tmp_path / "report.json"
    file.write_text("older")
    check_writable(file)
    write_atomically(file, report)
    assert json.loads(file.read_text()) == report
    assert list(tmp_path.iterdir()) == [file]


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        check_writable(tmp_path / "missing" / "report.json")
    with pytest.raises(UsageError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(UsageError, match="cannot write"):
        write_atomically(tmp_path / "missing" / "report.json", {})


def test_the_table_fits_80_columns() -> None:
    labels = {"cloud": "cloud alone", "waiting": "waiting", "ahead": "drafting ahead"}
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table({name: [answer([1, 2, 3], 1234.5)] for name in labels}, labels))
    text = console.export_text()
    assert "…" not in text
    assert "speed-up" in text
    assert "drafting ahead  1234.5" in text


def test_modes_take_turns() -> None:
    assert list(schedule(2, ("a", "b", "c"))) == [
        (0, "a"), (0, "b"), (0, "c"),
        (1, "b"), (1, "c"), (1, "a"),
    ]  # fmt: skip


def test_prompts_are_left_out_whole_where_time_is_short() -> None:
    now = [0.0]

    def written(until: float, seconds: float) -> list[tuple[int, str]]:
        now[0] = 0.0
        taken = []
        for turn in in_time(schedule(3, ["cloud", "ahead"]), until, lambda: now[0]):
            now[0] += seconds
            taken.append(turn)
        return taken

    assert len(written(6.0, 1.0)) == 6
    assert written(5.9, 1.0) == list(schedule(2, ["cloud", "ahead"]))  # the third would be done at 6
    assert written(0.0, 1.0) == list(schedule(1, ["cloud", "ahead"]))  # one at least
