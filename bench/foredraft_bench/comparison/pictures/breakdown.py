"""What a token's time consists of: the limit, and what keeps from it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..document import CellResult, Report
from ..limit import Parts
from .style import BLACK, CAUSES, bar_panels

__all__ = ["waterfall"]

_VISIBLE = 0.001
"""Of the width: a narrower part is less than a pixel, and not drawn."""


def waterfall(report: Report, cells: Sequence[CellResult]) -> Figure | None:
    """For each cell a bar a mode: from the target's passes alone, step by step, to what a token took."""
    divided = [(cell, [(name, each.limit) for name, each in cell.figures().items()]) for cell in cells]
    held = [(cell, [(name, parts) for name, parts in modes if parts is not None]) for cell, modes in divided]
    held = [(cell, modes) for cell, modes in held if modes]
    if not held:
        return None
    handles = [
        Patch(facecolor=colour, edgecolor="white", hatch=hatch, label=words) for words, colour, hatch in CAUSES.values()
    ]
    titles = [f"{cell.network}, {cell.rtt_ms:.3g} ms round trip" for cell, _ in held]
    picture, panels = bar_panels(titles, max(len(modes) for _, modes in held), "ms a token", handles, 3)
    for axes, (_, modes) in zip(panels, held, strict=True):
        _panel(axes, [report.label(name) for name, _ in modes], [parts for _, parts in modes])
    return picture


def _panel(axes: Axes, labels: Sequence[str], modes: Sequence[Parts]) -> None:
    # Modes that pay the round trip for each token would leave no room for the others: their bars are cut.
    ordered = sorted(parts.total_ms for parts in modes)
    room = min(ordered[-1], 2.0 * ordered[(len(ordered) - 1) // 2]) * 1.22
    for row, parts in enumerate(modes):
        reached = 0.0
        for name, (_, colour, hatch) in CAUSES.items():
            step = getattr(parts, name)
            if abs(step) < _VISIBLE * room:
                reached += step
                continue
            axes.barh(row, step, left=reached, height=0.72, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4)
            reached += step
        cut = reached > room
        place = room if cut else reached
        axes.annotate(
            f"{reached:.1f}{' →' if cut else ''}", (place, row), xytext=(-4 if cut else 4, 0), textcoords="offset points",
            va="center", ha="right" if cut else "left", color=BLACK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0} if cut else None,
        )  # fmt: skip
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    lowest = min(0.0, *(min(parts.network_ms, parts.overhead_ms) for parts in modes))
    axes.set_xlim(min(0.0, lowest), room)
