"""Which pictures a report has, of which cells, and what they are to tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import programs
from .document import CellResult, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Piece", "gallery"]

_EXAMPLE_MS = 20.0
"""The network nearest to this round trip is shown as an example."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A picture, or why there is none."""

    name: str
    heading: str
    told: str
    picture: Figure | None


def gallery(report: Report) -> Iterator[Piece]:
    """The pictures of a report, in the order in which to look at them."""
    from . import pictures

    over_networks = _one_a_network(report)
    by_length, by_devices = _alike(report, over_networks)
    yield _piece(
        "speed",
        "Speed-up against round trip",
        pictures.speed_against_round_trip(report, over_networks),
        "Above 1: faster than the cloud alone. Each line is a mode; the bars reach from the lowest run to the highest. Edge "
        "alone does not depend on the network, and writes the draft model's text: it is told in the legend if it lies above, and "
        "not compared. The break-even is read off the straight line between two networks: about there.",
        "The cloud alone was not measured beside another mode.",
    )
    if len(by_length) > 1:
        yield _piece(
            "length",
            "Speed-up against length",
            pictures.speed_by(report, by_length, lambda cell: cell.tokens, "longest answer, tokens (logarithmic)"),
            "How it changes while a text grows: what is foreseen, and what reading the text costs.",
        )
    if len(by_devices) > 1:
        yield _piece(
            "devices",
            "Speed-up against the number of devices",
            pictures.speed_by(report, by_devices, lambda cell: cell.devices, "devices at once (logarithmic)"),
            "Here all devices draft on one core and share one cloud; the speed-up is over the cloud alone with as many.",
        )
    yield _piece(
        "waterfall",
        "Where a token's time goes",
        pictures.waterfall(report, over_networks),
        "From the left: what the target's passes take for a token, which is the limit; then what keeps from it, by cause. The "
        "parts add up to the time measured between first and last token. A bar that does not fit ends in an arrow.",
        "No mode with rounds was measured.",
    )
    yield _piece(
        "gaps",
        "How evenly tokens come",
        pictures.gap_distributions(report, over_networks),
        "Speculation gives tokens in bursts: many gaps of nothing, and longer ones between. Further left is smoother.",
        "No answer of two tokens was measured.",
    )
    if any(cell.peers for cell in report.cells):
        yield _piece(
            "programs",
            "Beside other programs, which have no network",
            pictures.other_programs(report, programs.with_programs(report)),
            "What the same texts take where both models are in one machine, beside our own modes, which pay for a network. Table "
            "and conditions stand further below.",
            "No answer of two tokens was measured.",
        )
    example = min(over_networks, key=lambda cell: abs(cell.rtt_ms - _EXAMPLE_MS), default=None)
    yield _piece(
        "rounds",
        "Three rounds in a row",
        pictures.timeline(report, example) if example else None,
        "Each colour is a round. In the pass: drafted tokens accepted, of those drafted. At the green lines a verdict is there, "
        "and so many tokens are committed. Triangles are hints. How a round trip splits into up and down is taken as equal.",
        "No mode that drafts was measured to the end of its last run.",
    )
    yield _piece(
        "hints",
        "Are hints right?",
        pictures.reliability_diagram(report.cells),
        "On the diagonal a hint is right as often as it says.",
        "The target gave no hints in this run: it has no exits, or no mode used them. Name exits with --exits.",
    )


def _piece(name: str, heading: str, picture: Figure | None, shows: str, nothing: str = "") -> Piece:
    return Piece(name, heading, shows if picture is not None else nothing, picture)


def _one_a_network(report: Report) -> list[CellResult]:
    """The first cell over each network that has answers, near ones first."""
    first: dict[str, CellResult] = {}
    for cell in report.cells:
        if cell.samples:
            first.setdefault(cell.network, cell)
    return sorted(first.values(), key=lambda cell: cell.rtt_ms)


def _alike(report: Report, bases: list[CellResult]) -> tuple[list[CellResult], list[CellResult]]:
    """The longest series of cells that differ from one of ``bases`` in nothing but the length, and in nothing but the number
    of devices."""
    lengths: list[CellResult] = []
    devices: list[CellResult] = []
    for base in bases:
        same = [cell for cell in report.cells if cell.network == base.network and cell.samples]
        lengths = max(lengths, [cell for cell in same if cell.devices == base.devices], key=len)
        devices = max(devices, [cell for cell in same if cell.tokens == base.tokens], key=len)
    return lengths, devices
