"""The file of a report, and the forms it is shown in; from a small one that a run with a tiny target left."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from foredraft_bench.comparison.document import CellResult, Difference, Report, read_report, write_report
from foredraft_bench.comparison.figures import Spread
from foredraft_bench.comparison.gallery import gallery
from foredraft_bench.comparison.markdown import as_markdown
from foredraft_bench.comparison.page import as_page, write_page
from foredraft_bench.comparison.pictures import svg
from foredraft_bench.comparison.pictures.speed import break_even_ms
from foredraft_bench.comparison.reliability import HintSeen
from foredraft_shared.errors import UsageError

RECORDED = Path(__file__).parents[2] / "data" / "bench_report.json"


@pytest.fixture
def report() -> Report:
    return read_report(RECORDED)


def test_a_report_survives_being_written_and_read(report: Report, tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", report)
    assert read_report(tmp_path / "report.json") == report


def test_the_figures_stand_beside_the_samples(report: Report, tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", report)
    cell = json.loads((tmp_path / "report.json").read_text())["cells"][0]
    ahead = cell["figures"]["ahead"]
    gaps = [
        after - before
        for sample in cell["samples"]["ahead"]
        for before, after in zip(sample["arrived_ms"], sample["arrived_ms"][1:], strict=False)
    ]
    assert ahead["ms_per_token"]["median"] == pytest.approx(sum(gaps) / len(gaps))
    assert ahead["speed_up"]["median"] == pytest.approx(
        cell["figures"]["cloud"]["ms_per_token"]["median"] / ahead["ms_per_token"]["median"]
    )
    limit = ahead["limit"]
    assert sum(limit.values()) == pytest.approx(ahead["ms_per_token"]["median"], rel=1e-3)


def damaged(change: Any) -> str:
    document = json.loads(RECORDED.read_text())
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not JSON"),
        ("[]", "no report of `foredraft bench run`"),
        ('{"format": 1}', "no report of `foredraft bench run`"),
        (damaged(lambda it: it.update(format=99)), "of format 99"),
        (damaged(lambda it: it.update(cells=7)), "cells is not a list"),
        (damaged(lambda it: it["cells"][0].update(tokens="many")), r"cells\[0\].tokens is not"),
        (damaged(lambda it: it["cells"][0]["samples"]["ahead"][0].pop("tokens")), r"ahead\[0\].tokens is not there"),
        (damaged(lambda it: it.update(cells=[{}])), r"cells\[0\].network is not there"),
        (damaged(lambda it: it["set_up"].update(seed=True)), "set_up.seed is not"),
    ],
)
def test_files_that_are_no_reports(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "it.json").write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_report(tmp_path / "it.json")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the report"):
        read_report(tmp_path / "missing.json")


class _Resources(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(report: Report, tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", report)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = _Resources()
    page.feed(text)
    assert page.open == []
    assert "script" not in page.tags
    assert page.tags.count("img") >= 4
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.fetched)
    assert "@import" not in text
    assert "url(" not in re.sub(r"base64,[^\"]*", "", text)


def test_page_and_table_tell_the_same(report: Report) -> None:
    for text in (as_page(report), as_markdown(report)):
        assert "identical tokens" in text
        assert "drafting ahead" in text
        assert "because" in text  # why the planner chose what it chose
        ahead = report.cells[0].figures()["ahead"].ms_per_token
        assert ahead is not None
        assert f"{ahead.median:.1f}" in text


def test_a_difference_cannot_be_overlooked(report: Report) -> None:
    report.cells[0].difference = Difference(
        0, 3, ("cloud", "ahead"), "lan, prompt 1, token 4: cloud wrote <a>, ahead <b>"
    )
    assert "&lt;a&gt;" in as_page(report)
    assert "identical" not in as_page(report)
    assert "did not" in as_markdown(report)


def test_a_partial_report_says_so(report: Report) -> None:
    report.complete = False
    report.planned_cells = 9
    del report.cells[1]
    assert "stopped after 1 of 9" in as_page(report)
    assert "Partial: 1 of 9" in as_markdown(report)


def test_a_report_that_ran_out_of_time_says_so_although_every_cell_is_there(report: Report) -> None:
    assert "for want of time" not in as_page(report) + as_markdown(report)
    report.cells[0].runs, report.cells[0].prompts, report.cells[0].answered = 2, 3, 4
    assert report.complete
    for text in (as_page(report), as_markdown(report)):
        assert re.search(r"2 of \d+ texts a mode left out for want of time", text.partition("lan, ")[0])


def test_the_table_begins_with_a_line_for_each_cell(report: Report) -> None:
    head = as_markdown(report).partition("\n## ")[0].splitlines()
    for cell in report.cells:
        speed_ups = cell.speed_ups()
        (line,) = (line for line in head if line.startswith(f"| {cell.title} |"))
        assert f"| {speed_ups['ahead'].median:.2f}× | {speed_ups['auto'].median:.2f}× |" in line
        assert re.search(r"\| [+-]\d+\.\d% \|$", line)


def test_a_report_of_nothing_can_be_shown(report: Report) -> None:
    report.cells = [CellResult("lan", "1 ms", 1.0, 16, 1, 1, 3)]
    assert "<table>" in as_page(report)
    assert all(piece.picture is None and piece.told for piece in gallery(report))


def test_answers_of_one_token_have_no_pace_and_yet_a_report(report: Report) -> None:
    for cell in report.cells:
        for name, samples in cell.samples.items():
            cell.samples[name] = tuple(
                dataclasses.replace(sample, tokens=sample.tokens[:1], arrived_ms=sample.arrived_ms[:1], parts=None)
                for sample in samples
            )
    assert "identical tokens" in as_page(report)
    assert "drafting ahead" in as_markdown(report)
    assert report.cells[0].speed_ups() == {}


def test_modes_without_the_baseline_have_no_speed_up_and_yet_a_report(report: Report) -> None:
    for cell in report.cells:
        del cell.samples["cloud"]
    text = as_page(report)
    assert "The cloud alone was not measured" in text
    assert "Where a token" in text


def test_every_picture_has_units_and_says_what_it_shows(report: Report) -> None:
    ahead = report.cells[0].samples["ahead"][0]
    hints = tuple(HintSeen(20, 0.05 + index / 40, index % 3 > 0) for index in range(36))
    report.cells[0].samples["ahead"] = (dataclasses.replace(ahead, hints=hints),)
    pieces = {piece.name: piece for piece in gallery(report)}
    assert set(pieces) >= {"speed", "waterfall", "gaps", "rounds", "hints"}
    for piece in pieces.values():
        assert piece.picture is not None, piece.name
        words = [text.get_text() for text in piece.picture.findobj() if hasattr(text, "get_text")]
        assert any(re.search(r"\bms\b|probability|tokens", word) for word in words), piece.name
        assert piece.told.endswith(".")


def test_letters_are_drawn_as_large_as_the_room_that_is_left_for_them(report: Report) -> None:
    """Outlines are kept in 64ths and scaled down by that; a rounded scale makes small letters with wide gaps."""
    for piece in gallery(report):
        if piece.picture is not None:
            drawn = svg(piece.picture)
            assert b"scale(0.015625)" in drawn
            assert not re.search(rb"scale\(0\.01\)", drawn)


def test_a_mode_that_wrote_nothing_is_not_said_to_have_written_the_same(report: Report) -> None:
    for cell in report.cells:
        cell.samples.pop("waiting", None)
    for text in (as_page(report), as_markdown(report)):
        (sentence,) = (line for line in text.splitlines() if "identical tokens" in line)
        assert "waiting" not in sentence
        assert "drafting ahead" in sentence


def even(value: float) -> Spread:
    return Spread(value, value, value)


def test_break_even_lies_between_the_round_trips_around_it() -> None:
    assert break_even_ms([(10.0, even(1.5)), (40.0, even(0.5))]) == pytest.approx(20.0)  # halfway, by the logarithm
    assert break_even_ms([(10.0, even(1.0)), (40.0, even(0.5))]) == pytest.approx(10.0)
    assert break_even_ms([(10.0, even(1.5)), (40.0, even(1.2))]) is None
    assert break_even_ms([]) is None
