"""How much faster than the cloud alone: over which network, at which length, with how many devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from ..document import BASELINE, CellResult, Report
from ..figures import Spread
from .style import BLACK, figure, look

__all__ = ["break_even_ms", "speed_against_round_trip", "speed_by"]

Points = Sequence[tuple[float, Spread]]


def speed_against_round_trip(report: Report, cells: Sequence[CellResult]) -> Figure | None:
    """Speed-up over the cloud alone against the round trip, a line a mode, the break-even marked.

    Args:
        cells: that differ in their network only.
    """
    cells = sorted(cells, key=lambda cell: cell.rtt_ms)
    lines = _lines(report, cells, lambda cell: max(cell.rtt_ms, 0.1))
    if not lines:
        return None
    picture = figure(5.6)
    axes = picture.add_subplot()
    _draw(axes, report, lines)
    axes.set_xscale("log")
    places = [max(cell.rtt_ms, 0.1) for cell in cells]
    axes.set_xticks(
        places,
        [f"{cell.network}, {cell.rtt_ms:.3g}" for cell in cells],
        rotation=60,
        ha="right",
        rotation_mode="anchor",
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(min(places) / 1.35, max(places) * 1.35)
    axes.set_xlabel("network, and its round trip in ms (logarithmic)")
    crossings = [
        f"{report.label(mode)}: {crossing:.0f} ms"
        for mode in ("waiting", "ahead", "auto")
        if mode in lines and (crossing := break_even_ms(lines[mode])) is not None
    ]
    for mode in ("waiting", "ahead", "auto"):
        crossing = break_even_ms(lines.get(mode, ()))
        if crossing is not None:
            axes.plot([crossing], [1.0], marker="|", markersize=16, markeredgewidth=2, color=look(mode).colour)
    told = f" (break-even at about {', '.join(crossings)})" if crossings else ""
    axes.set_title(f"Speed-up over the cloud alone{told}", loc="left")
    return picture


def speed_by(
    report: Report, cells: Sequence[CellResult], of: Callable[[CellResult], float], what: str
) -> Figure | None:
    """The same against something else than the network, such as the length.

    Args:
        cells: that differ in this only.
        of: what it is of a cell.
        what: in words, with its unit.
    """
    cells = sorted(cells, key=of)
    lines = _lines(report, cells, of)
    if not lines:
        return None
    picture = figure(4.2)
    axes = picture.add_subplot()
    _draw(axes, report, lines)
    axes.set_xscale("log", base=2)
    places = [of(cell) for cell in cells]
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(what)
    axes.set_title(f"Speed-up over the cloud alone, {cells[0].network}", loc="left")
    return picture


def break_even_ms(points: Points) -> float | None:
    """The round trip at which a mode is as fast as the cloud alone: where its line, straight over the logarithm of the
    round trip, first comes down through 1; ``None`` where it does not."""
    for (left, higher), (right, lower) in pairwise(points):
        if higher.median >= 1.0 > lower.median:
            way = (higher.median - 1.0) / (higher.median - lower.median)
            return math.exp(math.log(left) + way * (math.log(right) - math.log(left)))
    return None


def _lines(
    report: Report, cells: Sequence[CellResult], of: Callable[[CellResult], float]
) -> dict[str, list[tuple[float, Spread]]]:
    found: dict[str, list[tuple[float, Spread]]] = {}
    for told in report.modes:
        points = [(of(cell), ratios[told.name]) for cell in cells if told.name in (ratios := cell.speed_ups())]
        if points and told.name != BASELINE:
            found[told.name] = points
    return found


def _draw(axes: Axes, report: Report, lines: dict[str, list[tuple[float, Spread]]]) -> None:
    # The small model alone may be so fast that there would be no room for the others.
    compared = [points for mode, points in lines.items() if mode != "edge"] or list(lines.values())
    top = max(1.25, max(spread.highest for points in compared for _, spread in points) * 1.2)
    for mode, points in lines.items():
        drawn = look(mode)
        middle = [spread.median for _, spread in points]
        label = report.label(mode)
        if min(middle) > top:
            label += f"\n(above: {min(middle):.1f}× to {max(middle):.1f}×)"
        axes.errorbar(
            [place for place, _ in points],
            middle,
            yerr=[
                [spread.median - spread.lowest for _, spread in points],
                [spread.highest - spread.median for _, spread in points],
            ],
            color=drawn.colour,
            marker=drawn.marker,
            linestyle=drawn.line,
            markersize=8 if drawn.marker == "*" else 6,
            capsize=2.5,
            linewidth=1.6,
            elinewidth=0.9,
            label=label,
        )
    axes.axhline(1.0, color=BLACK, linewidth=1.2, label="cloud alone, streamed:\nthe break-even")
    axes.axhspan(0.0, 1.0, color="#f4f4f4", zorder=0)
    axes.set_ylim(0.0, top)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.set_ylabel("times as fast (bars: lowest to highest run)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
