"""What happens in a round, and when: device, link and cloud side by side."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..document import CellResult, Report
from ..samples import RoundSpans
from .style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, figure

__all__ = ["timeline"]

_LANES = ("device drafts", "link up", "cloud: queue", "cloud: pass", "link down")
_COLOURS = (ORANGE, SKY, BLUE)
_HATCHES = ("", "//", "..")


def timeline(report: Report, cell: CellResult) -> Figure | None:
    """Three rounds in a row of each mode that speculates; ``None`` where there are none."""
    shown = [(name, rounds) for name in ("waiting", "ahead") if (rounds := cell.typical.get(name))]
    if not shown:
        return None
    picture = figure(0.9 + 2.5 * len(shown))
    grid = picture.subplots(len(shown), 1, sharex=True, squeeze=False)
    for row, (name, rounds) in enumerate(shown):
        axes = grid[row][0]
        _draw(axes, rounds)
        axes.set_title(f"{report.label(name)}, {cell.network}, {cell.rtt_ms:.3g} ms round trip", loc="left")
    grid[-1][0].set_xlabel("ms since the first round shown was begun")
    return picture


def _draw(axes: Axes, rounds: tuple[RoundSpans, ...]) -> None:
    for index, each in enumerate(rounds):
        spans = (
            (each.draft_began_ms, each.draft_ended_ms),
            (each.sent_ms, each.queued_ms),
            (each.queued_ms, each.computing_ms),
            (each.computing_ms, each.answered_ms),
            (each.answered_ms, each.verdict_ms),
        )
        colour, hatch = _COLOURS[index % len(_COLOURS)], _HATCHES[index % len(_HATCHES)]
        for lane, (begin, end) in enumerate(spans):
            if begin is None or end is None:
                continue
            axes.barh(lane, end - begin, left=begin, height=0.66, color=colour, hatch=hatch, edgecolor="white")
            if lane == 3:
                axes.annotate(
                    f"{each.accepted} of {each.drafted}", ((begin + end) / 2, lane), ha="center", va="center",
                    color=BLACK, size=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
                )  # fmt: skip
        axes.axvline(each.verdict_ms, color=GREEN, linewidth=1.3)
        axes.annotate(
            f"+{each.committed}", (each.verdict_ms, 1.0), xycoords=("data", "axes fraction"), xytext=(3, -10),
            textcoords="offset points", color=BLACK, size=9,
        )  # fmt: skip
        for at in each.hints_ms:
            axes.plot([at], [4], marker="v", color=PURPLE, markersize=7)
    axes.set_yticks(range(len(_LANES)), _LANES)
    axes.set_ylim(len(_LANES) - 0.5, -1.1)  # room above the first for what is committed
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
