"""How all pictures look: colours that the colour-blind tell apart, and markers and lines for those who see none.

Colours: Okabe and Ito, "Color universal design", 2008.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Patch

__all__ = ["BLACK", "CAUSES", "GREY", "Look", "bar_panels", "figure", "look", "svg"]

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY = "#666666"

_WIDTH_INCHES = 10.0
"""1,000 pixels at 100 to the inch, which is how wide the page shows a picture."""
_SETTINGS: Any = {
    "font.size": 11.0,
    "axes.titlesize": 12.0,
    "axes.labelsize": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.fonttype": "path",  # looks the same wherever it is opened
    "svg.hashsalt": "foredraft",  # the same figures give the same file
}


@dataclass(frozen=True, slots=True)
class Look:
    """How a mode is drawn everywhere."""

    colour: str
    marker: str
    line: str


_LOOKS = {
    "edge": Look(GREY, "x", ":"),
    "cloud": Look(BLACK, "s", "-"),
    "remote": Look(PURPLE, "v", ":"),
    "waiting": Look(ORANGE, "^", "--"),
    "unchained": Look(SKY, "D", "-."),
    "hintless": Look(BLUE, "P", ":"),
    "single-head": Look(VERMILION, "<", "-."),
    "ahead": Look(BLUE, "o", "-"),
    "auto": Look(GREEN, "*", "-"),
}
_OTHERS = (
    Look(VERMILION, "H", ":"), Look(PURPLE, ">", "--"), Look(ORANGE, "h", ":"), Look(SKY, "p", "-"),
)  # fmt: skip

_DECIMALS = re.compile(rb"(?<!scale\()(\d\.\d\d)\d+")
"""More than a hundredth of a point, but for the scale of the letters, which would shrink."""

CAUSES = {
    "limit_ms": ("the target's passes: the limit", BLUE, ""),
    "drafting_ms": ("waiting for drafting", ORANGE, "//"),
    "queue_ms": ("waiting in the cloud's queue", PURPLE, "xx"),
    "network_ms": ("waiting for the network", SKY, ".."),
    "overhead_ms": ("overhead", "#bbbbbb", ""),
}
"""The parts of a token's time, in the order they are stacked: words, colour, hatching."""


def look(mode: str) -> Look:
    """How to draw a mode; one we have no look for gets one by its name."""
    return _LOOKS.get(mode) or _OTHERS[sum(map(ord, mode)) % len(_OTHERS)]


def figure(height_inches: float) -> Figure:
    """An empty picture, as wide as the page."""
    import matplotlib as mpl

    mpl.rcParams.update(_SETTINGS)
    return Figure(figsize=(_WIDTH_INCHES, height_inches), dpi=100, layout="constrained")


def bar_panels(
    titles: Sequence[str], most_bars: int, unit: str, handles: Sequence[Patch], legend_columns: int
) -> tuple[Figure, list[Axes]]:
    """A picture with a panel for each title, two beside each other, high enough for so many bars each; and the panels.

    Args:
        unit: below the lowest panels.
        handles: of the legend above them all.
    """
    columns = min(2, len(titles))
    rows = math.ceil(len(titles) / columns)
    picture = figure(1.1 + rows * (0.75 + 0.36 * most_bars))
    panels = list(picture.subplots(rows, columns, squeeze=False).flat)
    for left_over in panels[len(titles) :]:
        left_over.remove()
    for index, (title, axes) in enumerate(zip(titles, panels, strict=False)):
        axes.set_title(title, loc="left")
        if index + columns >= len(titles):
            axes.set_xlabel(unit)
    picture.legend(handles=handles, loc="outside upper center", ncols=legend_columns)
    return picture, panels[: len(titles)]


def svg(picture: Figure) -> bytes:
    """A picture as SVG that needs no font and nothing else, to a hundredth of a point."""
    held = io.BytesIO()
    FigureCanvasSVG(picture)
    picture.savefig(held, format="svg", metadata={"Date": None})
    return _DECIMALS.sub(rb"\1", held.getvalue())
