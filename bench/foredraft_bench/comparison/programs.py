"""Other programs in a report: a table of their own, since they know no network."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from ..metrics import parting
from .document import BASELINE, CellResult, Report
from .figures import Figures
from .words import number, spread_told

__all__ = ["COLUMNS", "HEADING", "NOTE", "notes", "rows", "with_programs"]

HEADING = "Other programs: both models in one machine, no wire, no network"
NOTE = (
    "Each is a process on the target's core, with one thread and models of its own. It wrote the same prompts in the same turns "
    "as the modes above, and no network lay between. So there is no speed-up to tell; what may be compared is the row "
    "'foredraft, the target's passes only': what our own engine computed for the cloud alone, in those turns. Other programs "
    "need not write the target's tokens, as their arithmetic rounds differently. llama.cpp computes with the weights as they are "
    "packed in the GGUF file, the others unpack them first."
)
COLUMNS = (
    "longest answer", "program", "ms a token", "first token, ms", "gap p50, ms", "p95", "max", "answers as the target's",
)  # fmt: skip


def with_programs(report: Report) -> list[CellResult]:
    """The cells in which other programs were measured or left out, one for each length."""
    names = {told.name for told in report.peers}
    return [cell for cell in report.cells if cell.peers or names & cell.skipped.keys()]


def rows(report: Report) -> Iterator[tuple[str, ...]]:
    """The table, by :data:`COLUMNS`."""
    for cell in with_programs(report):
        length = f"{cell.tokens} tokens"
        own = cell.figures().get(BASELINE)
        if cell.peers and own is not None and own.limit is not None:
            passes = number(own.limit.limit_ms, 1)
            yield length, "foredraft, the target's passes only", passes, *["–"] * 4, "by definition"
        for name, figures in cell.peer_figures().items():
            yield length, report.label(name), *_told(figures), _agreement(report, cell, name)


def notes(report: Report) -> Iterator[str]:
    """Which are missing, and why; each reason once."""
    names = [told.name for told in report.peers]
    found = dict.fromkeys(
        f"{report.label(name)} was left out: {cell.skipped[name]}."
        for cell in report.cells
        for name in names
        if name in cell.skipped
    )
    yield from found


def _told(figures: Figures) -> tuple[str, ...]:
    return (
        spread_told(figures.ms_per_token, 1),
        number(figures.ttft_ms.median if figures.ttft_ms else None, 0),
        *(number(gap, 0) for gap in (figures.gap_p50_ms, figures.gap_p95_ms, figures.gap_max_ms)),
    )


def _agreement(report: Report, cell: CellResult, name: str) -> str:
    if report.set_up.temperature > 0:
        return "drawn otherwise"
    pairs = cell.beside_the_target(name, [told.name for told in report.modes if told.lossless])
    if not pairs:
        return "–"
    parted = [parting(mine, theirs) for mine, theirs in pairs if mine != theirs]
    told = f"{len(pairs) - len(parted)} of {len(pairs)}"
    return f"{told}; others part after {median(parted):g} tokens (median)" if parted else told
