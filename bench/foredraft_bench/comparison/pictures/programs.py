"""How long a token takes other programs, which have no network, and our modes over one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..document import CellResult, Report
from ..figures import Spread
from .style import BLACK, BLUE, ORANGE, figure

__all__ = ["other_programs"]

_COLUMNS = 2
_SHOWN = ("cloud", "ahead", "auto")
"""Our modes that stand beside them."""


def other_programs(report: Report, cells: Sequence[CellResult]) -> Figure | None:
    """For each cell a bar a program, and one a mode of ours in another colour; ``None`` where none was measured."""
    held = [(cell, bars) for cell in cells if cell.peers and (bars := _bars(report, cell))]
    if not held:
        return None
    columns = min(_COLUMNS, len(held))
    rows = math.ceil(len(held) / columns)
    picture = figure(1.1 + rows * (0.75 + 0.36 * max(len(bars) for _, bars in held)))
    grid = picture.subplots(rows, columns, squeeze=False)
    for index, (cell, bars) in enumerate(held):
        axes = grid[index // columns][index % columns]
        _panel(axes, bars)
        axes.set_title(f"{cell.tokens} tokens", loc="left")
        if index + columns >= len(held):
            axes.set_xlabel("ms a token (lines: lowest to highest run)")
    for index in range(len(held), rows * columns):
        grid[index // columns][index % columns].remove()
    handles = [
        Patch(facecolor=ORANGE, hatch="//", edgecolor="white", label="other programs: one machine, no network"),
        Patch(facecolor=BLUE, edgecolor="white", label="foredraft: two sides, over the network named"),
    ]
    picture.legend(handles=handles, loc="outside upper center", ncols=2)
    return picture


def _bars(report: Report, cell: CellResult) -> list[tuple[str, Spread, bool]]:
    """Label, ms a token, and whether it is another program."""
    theirs = [(report.label(name), each.ms_per_token, True) for name, each in cell.peer_figures().items()]
    ours = [
        (f"{report.label(name)}, {cell.network}", each.ms_per_token, False)
        for name, each in cell.figures().items()
        if name in _SHOWN
    ]
    return [(label, pace, other) for label, pace, other in (*theirs, *ours) if pace is not None]


def _panel(axes: Axes, bars: Sequence[tuple[str, Spread, bool]]) -> None:
    for row, (_, pace, other) in enumerate(bars):
        axes.barh(
            row, pace.median, height=0.72, color=ORANGE if other else BLUE, hatch="//" if other else "", edgecolor="white",
            linewidth=0.4, xerr=[[pace.median - pace.lowest], [pace.highest - pace.median]],
            error_kw={"ecolor": BLACK, "capsize": 2.5, "elinewidth": 0.9},
        )  # fmt: skip
        axes.annotate(
            f"{pace.median:.1f}",
            (pace.highest, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=BLACK,
        )
    axes.set_yticks(range(len(bars)), [label for label, _, _ in bars])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0.0, max(pace.highest for _, pace, _ in bars) * 1.15)
