"""Whether hints are right as often as they are sure."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ..document import CellResult
from ..figures import add_up
from .style import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILION, figure

__all__ = ["reliability_diagram"]

_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE)
_MARKERS = "osD^v"
_LINES = ("-", "--", "-.", ":", "-")


def reliability_diagram(cells: Sequence[CellResult]) -> Figure | None:
    """Precision against confidence, a line an exit, over all hints of all modes; ``None`` if there were none."""
    every = [sample for cell in cells for samples in cell.samples.values() for sample in samples]
    exits = add_up(every).exits
    if not exits:
        return None
    picture = figure(4.8)
    axes, counts = picture.subplots(1, 2, width_ratios=(3, 2))
    axes.plot([0, 1], [0, 1], color=BLACK, linewidth=1.0, label="as right as sure")
    width = 0.8 / len(exits) / 10
    for index, each in enumerate(exits):
        colour, marker, line = (held[index % len(held)] for held in (_COLOURS, _MARKERS, _LINES))
        axes.plot(
            [held.mean_confidence for held in each.bins],
            [held.precision for held in each.bins],
            color=colour, marker=marker, linestyle=line,
            label=f"layer {each.layer}: {each.precision:.0%} right,\ncalibration error {each.calibration_error:.2f}",
        )  # fmt: skip
        counts.bar(
            [held.lower + 0.01 + (index + 0.5) * width for held in each.bins],
            [held.count for held in each.bins],
            width=width, color=colour, label=f"layer {each.layer}",
        )  # fmt: skip
    for each_axes in (axes, counts):
        each_axes.set_xlim(0.0, 1.0)
        each_axes.set_xlabel("confidence of the hint (probability)")
        each_axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(0.0, 1.02)
    axes.set_ylabel("share of hints that were right")
    axes.set_title("Are hints as right as they are sure?", loc="left")
    axes.legend(loc="upper left")
    counts.set_ylabel("number of hints")
    counts.set_title("How many there were", loc="left")
    counts.legend(loc="upper left")
    return picture
