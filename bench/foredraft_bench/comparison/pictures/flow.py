"""How evenly the tokens come: the distribution of the gaps between them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ..document import CellResult, Report
from .style import figure, look

__all__ = ["gap_distributions"]

_POINTS = 50
"""A curve is drawn through so many of its quantiles at most."""
_COLUMNS = 3
_LEAST_MS = 1.0
"""Where the axis begins: shorter gaps, the zeros within a commit among them, are drawn there."""


def gap_distributions(report: Report, cells: Sequence[CellResult]) -> Figure | None:
    """For each cell: which share of the gaps is at most so long, a curve a mode."""
    cells = [cell for cell in cells if any(s.gaps_ms for samples in cell.samples.values() for s in samples)]
    if not cells:
        return None
    columns = min(_COLUMNS, len(cells))
    rows = math.ceil(len(cells) / columns)
    picture = figure(0.9 + 2.9 * rows)
    grid = picture.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    longest = max(gap for cell in cells for samples in cell.samples.values() for s in samples for gap in s.gaps_ms)
    shown: dict[str, Artist] = {}
    for index, cell in enumerate(cells):
        axes = grid[index // columns][index % columns]
        for told in report.modes:
            gaps = sorted(gap for sample in cell.samples.get(told.name, ()) for gap in sample.gaps_ms)
            if not gaps:
                continue
            drawn = look(told.name)
            places, shares = _quantiles(gaps)
            (line,) = axes.step(
                places, shares, where="post", color=drawn.colour, linestyle=drawn.line, linewidth=1.5,
                marker=drawn.marker, markevery=(0.1, 0.25), markersize=5,
            )  # fmt: skip
            shown.setdefault(told.label, line)
        axes.set_xscale("log")
        axes.set_xlim(_LEAST_MS, max(longest * 1.2, 10.0))
        axes.set_ylim(0.0, 1.02)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.set_title(f"{cell.network}, {cell.rtt_ms:.3g} ms", loc="left")
        axes.tick_params(labelbottom=index + columns >= len(cells))
    for index in range(len(cells), rows * columns):
        grid[index // columns][index % columns].remove()
    picture.supxlabel(
        "gap between a token and the one before it, ms (logarithmic; at the left edge: 1 ms or less)", size=11
    )
    picture.supylabel("share of the gaps, no longer", size=11)
    picture.legend(list(shown.values()), list(shown), loc="outside upper center", ncols=4)
    return picture


def _quantiles(ordered: Sequence[float]) -> tuple[list[float], list[float]]:
    """Places and shares of a distribution function, thinned out; what is shorter than the axis is where it begins."""
    count = len(ordered)
    short = sum(gap <= _LEAST_MS for gap in ordered)
    step = max(1, (count - short) // _POINTS)
    ranks = sorted({*range(short, count, step), count - 1} if short < count else set())
    return [_LEAST_MS, *(ordered[rank] for rank in ranks)], [short / count, *((rank + 1) / count for rank in ranks)]
