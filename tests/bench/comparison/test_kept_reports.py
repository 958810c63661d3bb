"""The reports in ``docs/bench``, and what is said of them elsewhere: nothing there is written by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from foredraft_bench.comparison.document import Report, read_report
from foredraft_bench.comparison.markdown import as_markdown

ROOT = Path(__file__).parents[3]
KEPT = ROOT / "docs" / "bench"


@pytest.fixture(scope="module", params=["report", "float32/report"])
def kept(request: pytest.FixtureRequest) -> tuple[Path, Report]:
    path = KEPT / f"{request.param}.json"
    return path, read_report(path)


def test_a_kept_table_is_what_its_figures_come_to(kept: tuple[Path, Report]) -> None:
    path, report = kept
    again = f"foredraft bench render {path.relative_to(ROOT)}"
    assert path.with_suffix(".md").read_text(encoding="utf-8") == as_markdown(report), f"do this again: {again}"


def test_a_kept_page_has_those_figures(kept: tuple[Path, Report]) -> None:
    path, report = kept
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    for cell in report.cells:
        assert f"{cell.speed_ups()['auto'].median:.2f}×" in page


def test_no_figure_of_a_report_is_told_a_second_time() -> None:
    text = (KEPT / "README.md").read_text(encoding="utf-8")
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    assert re.findall(r"\d+(?:\.\d+)? ?(?:times|×|%)", prose) == []


def test_the_speed_ups_that_the_readme_tells_are_the_report_s() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (told,) = re.findall(r"float32\]\(docs/bench/float32/report\.md\)[^(]*\(([^)]*)\)", text)
    cells = {cell.network: cell for cell in read_report(KEPT / "float32" / "report.json").cells}
    figures = re.findall(r"([\d.]+)× over (\w+)", told)
    assert len(figures) >= 3
    for figure, network in figures:
        assert figure == f"{cells[network].speed_ups()['ahead'].median:.1f}"
