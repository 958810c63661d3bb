"""How long a token takes other programs, which have no network, and our modes over one."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..document import CellResult, Report
from ..figures import Spread
from .style import BLACK, BLUE, ORANGE, bar_panels

__all__ = ["other_programs"]

_SHOWN = ("cloud", "ahead", "auto")
"""Our modes that stand beside them."""


def other_programs(report: Report, cells: Sequence[CellResult]) -> Figure | None:
    """For each cell a bar a program, and one a mode of ours in another colour; ``None`` where none was measured."""
    held = [(cell, bars) for cell in cells if cell.peers and (bars := _bars(report, cell))]
    if not held:
        return None
    handles = [
        Patch(facecolor=ORANGE, hatch="//", edgecolor="white", label="other programs: one machine, no network"),
        Patch(facecolor=BLUE, edgecolor="white", label="foredraft: two sides, over the network named"),
    ]
    picture, panels = bar_panels(
        [f"{cell.tokens} tokens" for cell, _ in held],
        max(len(bars) for _, bars in held),
        "ms a token (lines: lowest to highest run)",
        handles,
        2,
    )
    for axes, (_, bars) in zip(panels, held, strict=True):
        _panel(axes, bars)
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
