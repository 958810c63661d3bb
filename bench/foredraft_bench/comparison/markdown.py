"""A report as a table in Markdown: for a pull request, or a folder of documents."""

from __future__ import annotations

from collections.abc import Sequence

from . import programs
from .document import BASELINE, CellResult, Report
from .figures import Figures, Spread
from .words import (
    conditions_told,
    cut_told,
    draft_told,
    lossless_told,
    number,
    own_skipped,
    planner_excess,
    planner_told,
    share,
    spread_told,
)

__all__ = ["as_markdown"]

_COLUMNS = (
    "mode", "ms a token", "speed-up", "first token ms", "gap p50 / p95 / p99 / max ms", "fluidity", "fluid tokens/s",
    "accepted a round", "drafting hidden", "guesses right", "passes a token", "cloud ms a token", "bytes up + down a token",
)  # fmt: skip


def as_markdown(report: Report) -> str:
    """The whole report but its pictures."""
    set_up = report.set_up
    parts = [
        f"# foredraft bench: {set_up.target}, drafted for by {set_up.draft}",
        f"`{report.command}`, {report.began_utc}, {report.took_s / 60:.1f} minutes, foredraft {report.foredraft}"
        + ("" if report.complete else f". **Partial: {len(report.cells)} of {report.planned_cells} cells**")
        + (f". **{cut[0].upper()}{cut[1:]}**" if (cut := cut_told(report)) else ""),
        "; ".join(f"{name}: {value}" for name, value in report.machine.items()) + ".",
        _verdict(report),
        *filter(None, [draft_told(set_up)]),
        *_overview(report),
    ]
    for cell in report.cells:
        parts += [
            f"## {cell.title}",
            f"{cell.described}; {conditions_told(cell)}.",
            _table(report, cell),
        ]
        if "auto" in cell.figures():
            parts.append(f"The planner: {planner_told(cell)}.")
        parts += [f"Left out: *{report.label(name)}*: {reason}." for name, reason in own_skipped(report, cell)]
        if cell.peak_memory_mib:
            told = ", ".join(f"{name} {value:.0f} MiB" for name, value in cell.peak_memory_mib.items())
            parts.append(f"Peak memory: {told}.")
    if report.peers:
        parts += [f"## {programs.HEADING}", programs.NOTE, _rows([programs.COLUMNS, *programs.rows(report)], words=2)]
        parts += programs.notes(report)
    parts.append(
        "ms a token and speed-up: median of the runs (lowest to highest); speed-up is over *cloud alone*, streamed, in the same "
        "run. Fluidity: share of Etalon's deadlines met (100 ms for the first token, 50 ms for each other)."
    )
    return "\n\n".join(parts) + "\n"


def _verdict(report: Report) -> str:
    if report.differences:
        return "**Modes that must write the same did not:** " + "; ".join(each.described for each in report.differences)
    lossless = lossless_told(report)
    if not lossless:
        return "No mode was measured that must write the target's tokens."
    return f"All of {lossless} wrote identical tokens in every cell and run."


def _overview(report: Report) -> list[str]:
    """What it all comes to, a cell a line."""
    rows = []
    for cell in report.cells:
        alone, speed_ups, excess = cell.figures().get(BASELINE), cell.speed_ups(), planner_excess(cell)
        if alone is not None:
            ratios = (f"{speed_ups[name].median:.2f}×" if name in speed_ups else "–" for name in ("ahead", "auto"))
            over = "–" if excess is None else f"{excess:+.1%}"
            rows.append(
                (cell.title, number(alone.ms_per_token.median if alone.ms_per_token else None, 1), *ratios, over)
            )
    heading = ("cell", "cloud alone, ms a token", "drafting ahead", "planner", "planner's time over the better of both")
    return [_rows([heading, *rows], words=1)] if rows else []


def _table(report: Report, cell: CellResult) -> str:
    speed_ups = cell.speed_ups()
    rows = [_row(report.label(name), figures, speed_ups.get(name)) for name, figures in cell.figures().items()]
    return _rows([_COLUMNS, *rows], words=1)


def _rows(rows: Sequence[Sequence[str]], words: int) -> str:
    """The first is the heading; so many columns on the left are words, the others numbers."""
    heading, *others = rows
    line = ["---"] * words + ["--:"] * (len(heading) - words)
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, line, *others))


def _row(label: str, figures: Figures, speed_up: Spread | None) -> tuple[str, ...]:
    gaps = (figures.gap_p50_ms, figures.gap_p95_ms, figures.gap_p99_ms, figures.gap_max_ms)
    return (
        label,
        spread_told(figures.ms_per_token, 1),
        spread_told(speed_up, 2),
        number(figures.ttft_ms.median if figures.ttft_ms else None, 0),
        " / ".join(number(gap, 0) for gap in gaps),
        number(figures.fluidity_index, 2),
        number(figures.fluid_tokens_per_s, 1),
        number(figures.accepted_per_round, 2),
        share(figures.hidden_drafting),
        share(figures.guess_hit_rate),
        number(figures.cloud_passes_per_token, 2),
        number(figures.cloud_ms_per_token, 1),
        f"{number(figures.bytes_up_per_token, 1)} + {number(figures.bytes_down_per_token, 1)}",
    )
