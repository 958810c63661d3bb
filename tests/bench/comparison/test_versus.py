"""Two reports beside each other."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from foredraft_bench.comparison.document import Report, read_report
from foredraft_bench.comparison.figures import Spread
from foredraft_bench.comparison.samples import Sample
from foredraft_bench.comparison.versus import (
    Change,
    changes,
    differences_in_set_up,
    print_comparison,
    slower_than,
)

RECORDED = Path(__file__).parents[2] / "data" / "bench_report.json"


@pytest.fixture
def before() -> Report:
    return read_report(RECORDED)


def slowed(report: Report, mode: str, factor: float) -> Report:
    """The same, with one mode slower."""
    for cell in report.cells:
        cell.samples[mode] = tuple(_stretched(sample, factor) for sample in cell.samples[mode])
    return report


def _stretched(sample: Sample, factor: float) -> Sample:
    return dataclasses.replace(sample, arrived_ms=tuple(instant * factor for instant in sample.arrived_ms))


def test_a_report_is_as_fast_as_itself(before: Report) -> None:
    found = changes(before, before)
    assert len(found) == len(before.cells) * len(before.modes)
    assert all(change.ratio.median == 1.0 and not change.certain for change in found)
    assert differences_in_set_up(before, before) == []


def test_what_is_slower_is_found_by_cell_and_mode(before: Report) -> None:
    found = changes(before, slowed(read_report(RECORDED), "ahead", 1.2))
    late = slower_than(found, 10.0)
    assert {change.mode for change in late} == {"drafting ahead"}
    assert [change.ratio.median for change in late] == pytest.approx([1.2] * len(before.cells))
    assert slower_than(found, 25.0) == []


def test_the_ratio_reaches_as_far_as_the_runs_allow() -> None:
    change = Change("lan", "ahead", Spread(10.0, 9.0, 12.0), Spread(20.0, 18.0, 24.0))
    assert change.ratio == Spread(2.0, 1.5, 24.0 / 9.0)
    assert change.certain
    assert not dataclasses.replace(change, after=Spread(11.0, 10.0, 13.0)).certain


def test_one_run_is_never_certain() -> None:
    assert not Change("lan", "ahead", Spread(10.0, 10.0, 10.0), Spread(20.0, 20.0, 20.0)).certain


def test_what_was_not_alike_is_told(before: Report) -> None:
    after = read_report(RECORDED)
    after.set_up.dtype = "float32"
    after.set_up.prompts = ("Why?",)
    after.machine["processor"] = "another"
    after.complete = False
    told = differences_in_set_up(before, after)
    assert "dtype: bfloat16 → float32" in told
    assert "other prompts" in told
    assert any(each.startswith("processor: ") for each in told)
    assert "the second report is partial" in told


def test_it_is_shown_with_what_failed(before: Report) -> None:
    after = slowed(read_report(RECORDED), "ahead", 1.5)
    console = Console(file=io.StringIO(), width=110, record=True)
    print_comparison(console, before, after, changes(before, after), 10.0)
    text = console.export_text()
    assert "1.500" in text
    assert "too much" in text


def test_reports_without_anything_in_common(before: Report) -> None:
    after = read_report(RECORDED)
    for cell in after.cells:
        cell.tokens += 1
    console = Console(file=io.StringIO(), width=110, record=True)
    print_comparison(console, before, after, changes(before, after), None)
    assert "nothing to compare" in console.export_text()
