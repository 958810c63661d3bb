"""The report is whole at any time, and a run that was broken off is gone on with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from foredraft_bench.faults import report as faults_report
from foredraft_bench.faults.deadlines import SteppedRow, summary
from foredraft_bench.faults.report import Report, sources
from foredraft_bench.faults.verdicts import Row
from foredraft_bench.faults.world import Settings
from foredraft_shared.errors import UsageError

SETTINGS = Settings().as_json()
RIGHT = Row("TCP reset", "greedy", "cloud", True, 0, 0, False, None, 120.0, 130.0, 2.0, note="whole again at once")
STEPPED = SteppedRow("half-open", 100, 155.2, 154.0, 0, 40, 50, 10, True, "")
WRONG = dataclasses.replace(RIGHT, mode="chained", identical=False, lost=3, hung=True, back_ms=1500.0)


def test_a_report_is_there_after_every_row(tmp_path: Path) -> None:
    report = Report(tmp_path / "new" / "folder", SETTINGS)
    report.add(RIGHT)
    written = json.loads((tmp_path / "new" / "folder" / "faults.json").read_text())
    assert not written["complete"]
    assert written["rows"][0]["back_ms"] == 120.0
    assert {"fault", "sampling", "mode", "identical", "lost", "doubled", "hung", "edge_ms", "back_ms"} <= set(
        written["rows"][0]
    )
    assert "1 of 1 texts" in (tmp_path / "new" / "folder" / "faults.md").read_text()


def test_wrong_rows_and_slow_ones_stand_out(tmp_path: Path) -> None:
    report = Report(tmp_path, SETTINGS)
    report.add(RIGHT)
    report.add(WRONG)
    report.write(complete=True)
    text = (tmp_path / "faults.md").read_text()
    assert "1 of 2 texts" in text
    assert "| TCP reset | greedy | cloud | yes | 0 | 0 | no | – | 120 | 130 | whole again at once |" in text
    assert "| TCP reset | greedy | chained | **NO** | **3** | 0 | **YES** | – | **1500** |" in text


def test_an_unfinished_run_is_gone_on_with(tmp_path: Path) -> None:
    Report(tmp_path, SETTINGS).add(RIGHT)
    assert Report(tmp_path, SETTINGS).rows == [RIGHT]


def test_a_finished_run_or_one_of_other_settings_is_not(tmp_path: Path) -> None:
    report = Report(tmp_path, SETTINGS)
    report.add(RIGHT)
    assert Report(tmp_path, {**SETTINGS, "link": "wifi"}).rows == []
    assert Report(tmp_path, SETTINGS, fresh=True).rows == []
    report.write(complete=True)
    assert Report(tmp_path, SETTINGS).rows == []


def test_rows_of_other_code_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Report(tmp_path, SETTINGS).add(RIGHT)
    monkeypatch.setattr("foredraft_bench.faults.report.sources", lambda: "others")
    assert Report(tmp_path, SETTINGS).rows == []


def test_a_digest_of_the_code_changes_with_any_file_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(faults_report, "_PACKAGES", ("told_by_its_digest",))
    (tmp_path / "told_by_its_digest" / "deeper").mkdir(parents=True)
    (tmp_path / "told_by_its_digest" / "__init__.py").write_text("")
    seen = {sources()}
    for name, text in (("deeper/kernels.h", "1"), ("deeper/kernels.h", "2"), ("more.py", "1"), ("__init__.py", "1")):
        (tmp_path / "told_by_its_digest" / name).write_text(text)
        seen.add(sources())
    assert len(seen) == 5
    (tmp_path / "told_by_its_digest" / "more.pyc").write_text("1")
    assert sources() in seen


def test_a_file_that_is_no_report_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "faults.json").write_text("[]")
    assert Report(tmp_path, SETTINGS).rows == []


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="name another folder"):
        Report(tmp_path / "file" / "folder", SETTINGS)


def test_deadlines_stand_below_the_matrix(tmp_path: Path) -> None:
    report = Report(tmp_path, SETTINGS)
    report.deadlines = summary([STEPPED, dataclasses.replace(STEPPED, fault="held", worst_ms=171.5, late=2)])
    report.write(complete=True)
    text = (tmp_path / "faults.md").read_text()
    assert (
        "200 calls for the next tokens within 150 ms: 2 returned later than 170 ms, the latest after 171.5 ms" in text
    )
    assert "| half-open | 100 | 155.2 | 154.0 | 40 | 50 | 10 | right |" in text
    assert json.loads((tmp_path / "faults.json").read_text())["deadlines"]["rows"][1]["late"] == 2
