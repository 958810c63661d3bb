"""Other programs in a report: a table and a picture of their own, and how many answers are the target's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from foredraft_bench.comparison.document import CellResult, ModeTold, Report, read_report, write_report
from foredraft_bench.comparison.gallery import gallery
from foredraft_bench.comparison.markdown import as_markdown
from foredraft_bench.comparison.page import as_page
from foredraft_bench.comparison.programs import HEADING, notes, rows

RECORDED = Path(__file__).parents[2] / "data" / "bench_report.json"


@pytest.fixture
def report() -> Report:
    """With a program that wrote what the target writes, but for one token of one answer, and one that was left out."""
    found = read_report(RECORDED)
    found.peers = (
        ModeTold("assisted", "transformers, assisted generation", "transformers, assisted", False),
        ModeTold("llama.cpp", "llama.cpp, the target alone", "llama.cpp", False),
    )
    cell = found.cells[0]
    first, *others = cell.samples["cloud"]
    another = (*first.tokens[:5], first.tokens[5] + 1, *first.tokens[6:])
    cell.peers = {"assisted": (dataclasses.replace(first, tokens=another), *others)}
    cell.skipped["llama.cpp"] = "llama-cpp-python is not installed"
    return found


def test_they_survive_being_written_and_read(report: Report, tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", report)
    assert read_report(tmp_path / "report.json") == report
    cell = json.loads((tmp_path / "report.json").read_text())["cells"][0]
    assert cell["peer_figures"]["assisted"]["ms_per_token"] == {
        name: pytest.approx(cell["figures"]["cloud"]["ms_per_token"][name]) for name in ("median", "lowest", "highest")
    }
    assert "assisted" not in cell["figures"]


def test_a_row_tells_how_many_answers_are_the_targets(report: Report) -> None:
    own, assisted = rows(report)
    limit = report.cells[0].figures()["cloud"].limit
    assert limit is not None
    assert own[:3] == ("16 tokens", "foredraft, the target's passes only", f"{limit.limit_ms:.1f}")
    assert assisted[1] == "transformers, assisted"
    assert assisted[-1] == "2 of 3; others part after 5 tokens (median)"


def test_a_text_cut_short_is_not_the_targets(report: Report) -> None:
    cell = report.cells[0]
    cell.peers = {
        "assisted": tuple(
            dataclasses.replace(sample, tokens=sample.tokens[:4], arrived_ms=sample.arrived_ms[:4])
            for sample in cell.samples["cloud"]
        )
    }
    assert [row[-1] for row in rows(report)][1] == "0 of 3; others part after 4 tokens (median)"


def test_drawn_answers_and_answers_without_a_target_are_not_held_against_it(report: Report) -> None:
    report.set_up.temperature = 0.8
    assert [row[-1] for row in rows(report)][1] == "drawn otherwise"
    report.set_up.temperature = 0.0
    report.cells[0].samples = {"edge": report.cells[0].samples["edge"]}
    assert [row[-1] for row in rows(report)] == ["–"]


def test_page_and_table_tell_them_apart_from_ours(report: Report) -> None:
    for text in (as_markdown(report), as_page(report)):
        assert text.count(HEADING) == 1
        ours, _, theirs = text.partition(HEADING)
        assert "2 of 3; others part after 5" in theirs
        assert theirs.count("llama-cpp-python is not installed") == 1
        assert "is not installed" not in ours
    assert list(notes(report)) == ["llama.cpp was left out: llama-cpp-python is not installed."]


def test_the_picture_names_their_machine_and_our_network(report: Report) -> None:
    picture = next(piece.picture for piece in gallery(report) if piece.name == "programs")
    assert picture is not None
    words = [text.get_text() for text in picture.findobj() if hasattr(text, "get_text")]
    assert "other programs: one machine, no network" in words
    assert {"transformers, assisted", "cloud alone, lan"} <= set(words)


def test_a_report_of_nothing_but_other_programs_can_be_shown(report: Report) -> None:
    cell = report.cells[0]
    report.modes = ()
    report.cells = [
        CellResult("lan", "1 ms", 1.0, 16, 1, 1, 3, peers=cell.peers, skipped={"llama.cpp": "it is not there"})
    ]
    for text in (as_markdown(report), as_page(report)):
        assert "transformers, assisted" in text
        assert "identical" not in text


def test_a_report_without_them_says_nothing_of_them() -> None:
    report = read_report(RECORDED)
    assert HEADING not in as_markdown(report)
    assert "programs" not in {piece.name for piece in gallery(report)}
