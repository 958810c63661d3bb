"""Figures in words, the same in every form of a report."""

from __future__ import annotations

from .document import CellResult
from .figures import Figures, Spread

__all__ = ["conditions_told", "number", "planner_told", "share", "spread_told"]


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


def conditions_told(cell: CellResult) -> str:
    """How much was asked for in a cell."""
    told = ((cell.prompts, "prompt"), (cell.runs, "run"), (cell.devices, "device"))
    return ", ".join(f"{count} {what}" if count == 1 else f"{count} {what}s" for count, what in told)


def planner_told(figures: Figures) -> str:
    """What the planner chose and why, of the figures of the mode in which it is free to."""
    if figures.speculated is None or not figures.decisions:
        return "nothing was decided"
    last = figures.decisions[-1]
    mode = {"speculate": "edge and cloud together", "cloud": "the cloud alone"}.get(last.mode, last.mode)
    return f"{figures.speculated:.0%} of the tokens came from speculation; at the end {mode}, because {last.reason}"
