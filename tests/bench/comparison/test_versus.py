"""Two reports beside each other."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from rich.console import Console

from foredraft_bench.comparison.commands import compare
from foredraft_bench.comparison.document import Difference, Report, read_report, write_report
from foredraft_bench.comparison.figures import Spread
from foredraft_bench.comparison.samples import Sample
from foredraft_bench.comparison.versus import (
    Change,
    changes,
    differences_in_set_up,
    obstacles,
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


def shown(before: Report, after: Report, fail_above: float | None = None) -> str:
    console = Console(file=io.StringIO(), width=140, record=True)
    print_comparison(console, before, after, changes(before, after), fail_above)
    return console.export_text()


def three_runs(report: Report) -> Report:
    """Every text three times, each time a little slower, so that there is a spread."""
    for cell in report.cells:
        cell.runs = 3
        for mode, samples in cell.samples.items():
            own = [sample for sample in samples if sample.run == 0]
            cell.samples[mode] = tuple(
                dataclasses.replace(_stretched(sample, 1.0 + 0.01 * run), run=run) for run in range(3) for sample in own
            )
    return report


def only(report: Report, *prompts: int) -> Report:
    """What it would be without the other prompts."""
    for cell in report.cells:
        for mode, samples in cell.samples.items():
            cell.samples[mode] = tuple(sample for sample in samples if sample.prompt in prompts)
    return report


def test_different_prompts_are_not_compared(before: Report) -> None:
    after = read_report(RECORDED)
    after.set_up.prompts = tuple(f"Another {prompt}" for prompt in after.set_up.prompts)
    assert changes(before, after) == []
    assert obstacles(before, after, []) == ["nothing could be compared"]
    assert "nothing to compare" in shown(before, after)


def test_prompts_are_known_by_their_words_and_not_by_their_place(before: Report) -> None:
    after, count = read_report(RECORDED), len(before.set_up.prompts)
    after.set_up.prompts = after.set_up.prompts[::-1]
    for cell in after.cells:
        for mode, samples in cell.samples.items():
            cell.samples[mode] = tuple(dataclasses.replace(each, prompt=count - 1 - each.prompt) for each in samples)
    found = changes(before, after)
    assert len(found) == len(before.cells) * len(before.modes)
    assert all(change.ratio.median == pytest.approx(1.0) and change.texts == change.of_texts for change in found)


def test_a_text_that_one_report_lacks_makes_no_mode_slower(before: Report) -> None:
    after = only(three_runs(read_report(RECORDED)), 1)
    found = changes(three_runs(before), after)
    assert found
    assert all(change.ratio.median == pytest.approx(1.0) for change in found)
    assert {(change.texts, change.of_texts) for change in found} == {(3, 9)}
    assert any("3 texts in common, of 9 and 3" in each for each in differences_in_set_up(before, after))
    assert "3 of 9" in shown(before, after)


def test_nothing_is_certain_where_few_texts_are_in_both(before: Report) -> None:
    before, after = three_runs(before), three_runs(read_report(RECORDED))
    assert any(change.certain for change in changes(before, slowed(after, "ahead", 2.0)))
    few = changes(before, only(after, 1))
    assert few
    assert not any(change.certain for change in few)
    assert "too few texts in common" in shown(before, after)


def test_what_stands_in_the_way_of_a_verdict(before: Report) -> None:
    after = read_report(RECORDED)
    assert obstacles(before, after, changes(before, after)) == []
    gone, cell = after.cells.pop(), after.cells[0]
    del cell.samples["ahead"]
    cell.difference = Difference(0, 3, ("cloud", "auto"), "prompt 1, token 4: cloud wrote <a>, auto <b>")
    assert obstacles(before, after, changes(before, after)) == [
        f"different tokens in the second report: {cell.difference.described}",
        f"no drafting ahead to compare with in the second report: {cell.title}",
        f"nothing to compare with in the second report: {gone.title}",
    ]


def _without_ahead(report: Report) -> None:
    del report.cells[0].samples["ahead"]


def _with_a_difference(report: Report) -> None:
    report.cells[0].difference = Difference(0, 3, ("cloud", "auto"), "cloud wrote <a>, auto <b>")


def _of_others(report: Report) -> None:
    report.set_up.prompts = tuple(f"Another {prompt}" for prompt in report.set_up.prompts)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_of_others, "Failed: nothing could be compared"),
        (_without_ahead, "Failed: no drafting ahead to compare with in the second report"),
        (_with_a_difference, "Failed: different tokens in the second report"),
    ],
)
def test_a_gate_that_cannot_see_does_not_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: Report, change: Callable[[Report], None], line: str
) -> None:
    change(before)
    write_report(tmp_path / "b.json", before)
    with pytest.raises(typer.Exit) as left:
        compare(RECORDED, tmp_path / "b.json", fail_above=5.0)
    assert left.value.exit_code == 1
    assert line in capsys.readouterr().out
    compare(RECORDED, tmp_path / "b.json", fail_above=None)  # nobody asked for a verdict


def test_texts_for_which_there_was_no_time_are_told(before: Report) -> None:
    after = read_report(RECORDED)
    planned = sum(cell.runs * cell.prompts for cell in after.cells)
    for cell in after.cells:
        cell.answered = cell.runs * cell.prompts
    assert differences_in_set_up(before, after) == []
    after.cells[0].answered = 1
    left_out = after.cells[0].runs * after.cells[0].prompts - 1
    assert f"the second report has {left_out} of {planned} texts a mode left out for want of time" in (
        differences_in_set_up(before, after)
    )
