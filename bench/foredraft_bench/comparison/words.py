"""Figures in words, the same in every form of a report."""

from __future__ import annotations

from ..stage import drafts_for_itself
from .document import BASELINE, CellResult, Report, SetUp
from .figures import Spread

__all__ = [
    "conditions_told",
    "cut_told",
    "draft_told",
    "lossless_told",
    "number",
    "own_skipped",
    "planner_excess",
    "planner_told",
    "share",
    "spread_told",
]


def number(value: float | None, digits: int) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """A share in percent."""
    return "–" if value is None else f"{value:.0%}"


def spread_told(spread: Spread | None, digits: int) -> str:
    """Median, and the lowest and highest run in brackets if there were several."""
    if spread is None:
        return "–"
    told = f"{spread.median:.{digits}f}"
    if spread.lowest == spread.highest:
        return told
    return f"{told} ({spread.lowest:.{digits}f} to {spread.highest:.{digits}f})"


def lossless_told(report: Report) -> str:
    """The modes that wrote anything and must all have written the same; empty without one."""
    wrote = {name for cell in report.cells for name in cell.samples}
    return ", ".join(mode.label for mode in report.modes if mode.lossless and mode.name in wrote)


def conditions_told(cell: CellResult) -> str:
    """How much was asked for in a cell."""
    told = ((cell.prompts, "prompt"), (cell.runs, "run"), (cell.devices, "device"))
    asked = ", ".join(f"{count} {what}" if count == 1 else f"{count} {what}s" for count, what in told)
    planned = cell.prompts * cell.runs
    if cell.answered is None or cell.answered >= planned:
        return asked
    return f"{asked}; for want of time only {cell.answered} of {planned} answers a mode"


def cut_told(report: Report) -> str:
    """What there was no time for, in words; empty if there was."""
    missing, planned = report.left_out
    return f"{missing} of {planned} texts a mode left out for want of time" if missing else ""


def planner_excess(cell: CellResult) -> float | None:
    """By how much of its time the planner was slower than the better of drafting ahead and the cloud alone."""
    paces = {name: each.ms_per_token.median for name, each in cell.figures().items() if each.ms_per_token is not None}
    if not {"auto", "ahead", BASELINE} <= paces.keys():
        return None
    return paces["auto"] / min(paces["ahead"], paces[BASELINE]) - 1.0


def own_skipped(report: Report, cell: CellResult) -> list[tuple[str, str]]:
    """Our modes that were left out of a cell, with the reasons."""
    others = {told.name for told in report.peers}
    return [(name, reason) for name, reason in cell.skipped.items() if name not in others]


def draft_told(set_up: SetUp) -> str:
    """What to know about the draft model before its figures are read; empty where its name says it."""
    if not drafts_for_itself(set_up.draft, set_up.target):
        return ""
    return (
        "The draft is no small model here but the target itself with weights of 4 or 8 bits, as none was trained for this "
        "target: it foresees nearly every token, and takes long for a draft. The figures show what the runtime does, not what a "
        "small draft would gain."
    )


def planner_told(cell: CellResult) -> str:
    """What the planner chose and why, and whether the figures of the cell agree."""
    all_figures = cell.figures()
    figures = all_figures["auto"]
    if figures.speculated is None or not figures.decisions:
        return "nothing was decided"
    last = figures.decisions[-1]
    mode = {"speculate": "edge and cloud together", "cloud": "the cloud alone"}.get(last.mode, last.mode)
    told = f"{figures.speculated:.0%} of the tokens came from speculation; at the end {mode}, because it believed: {last.reason}"
    paces = {name: each.ms_per_token.median for name, each in all_figures.items() if each.ms_per_token is not None}
    excess = planner_excess(cell)
    if excess is None:
        return told
    return (
        f"{told}. Measured: drafting ahead {paces['ahead']:.1f}, the cloud alone {paces[BASELINE]:.1f}, the planner "
        f"{paces['auto']:.1f} ms a token, {abs(excess):.0%} {'slower' if excess > 0 else 'faster'} than the better of both"
    )
