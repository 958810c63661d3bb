"""Two reports beside each other: what has become faster or slower, and what differs in how they were made."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from .document import Report
from .figures import Spread
from .words import spread_told

__all__ = ["Change", "changes", "differences_in_set_up", "print_comparison", "slower_than"]


@dataclass(frozen=True, slots=True)
class Change:
    """One mode under one set of conditions, in two reports."""

    cell: str
    mode: str
    before: Spread
    """Ms a token."""
    after: Spread

    @property
    def ratio(self) -> Spread:
        """Time after / time before: above 1 is slower. Between the extremes that the runs of both allow."""
        return Spread(
            self.after.median / self.before.median,
            self.after.lowest / self.before.highest,
            self.after.highest / self.before.lowest,
        )

    @property
    def certain(self) -> bool:
        """Whether all runs of one are faster than all of the other, and there were several."""
        several = self.before.lowest < self.before.highest and self.after.lowest < self.after.highest
        return several and not self.ratio.lowest <= 1.0 <= self.ratio.highest


def changes(before: Report, after: Report) -> list[Change]:
    """What both reports measured, in the order of the first."""
    found = []
    others = {cell.key: cell for cell in after.cells}
    for cell in before.cells:
        other = others.get(cell.key)
        if other is None:
            continue
        theirs = other.figures()
        for name, figures in cell.figures().items():
            mine, its = figures.ms_per_token, theirs[name].ms_per_token if name in theirs else None
            if mine is not None and its is not None and mine.lowest > 0 and its.lowest > 0:
                found.append(Change(cell.title, before.label(name), mine, its))
    return found


def slower_than(found: Sequence[Change], percent: float) -> list[Change]:
    """Those that have become slower by more than so much, by the medians."""
    return [change for change in found if change.ratio.median > 1.0 + percent / 100.0]


def differences_in_set_up(before: Report, after: Report) -> list[str]:
    """What was not the same in how the reports were made, in words."""
    told = []
    for item in dataclasses.fields(before.set_up):
        mine, its = getattr(before.set_up, item.name), getattr(after.set_up, item.name)
        if mine != its:
            shown = ("others", "others") if item.name == "prompts" else (mine, its)
            told.append("other prompts" if item.name == "prompts" else f"{item.name}: {shown[0]} → {shown[1]}")
    for name in {**before.machine, **after.machine}:
        mine, its = before.machine.get(name), after.machine.get(name)
        if mine != its:
            told.append(f"{name}: {mine} → {its}")
    if before.foredraft != after.foredraft:
        told.append(f"foredraft: {before.foredraft} → {after.foredraft}")
    told += [
        f"the {which} report is partial"
        for which, report in (("first", before), ("second", after))
        if not report.complete
    ]
    return told


def print_comparison(
    console: Console, before: Report, after: Report, found: Sequence[Change], fail_above: float | None
) -> None:
    """Show it."""
    differences = differences_in_set_up(before, after)
    if differences:
        console.print("[bold yellow]Not made alike[/], so that differences may have other causes:", highlight=False)
        for difference in differences:
            console.print(f"  {difference}", markup=False, highlight=False, soft_wrap=True)
    if not found:
        console.print("The reports have no network, length and mode in common: nothing to compare.")
        return
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("cell")
    shown.add_column("mode")
    for heading in ("before ms", "after ms", "after / before"):
        shown.add_column(heading, justify="right")
    shown.add_column("")
    for change in found:
        ratio = change.ratio
        word = ("slower" if ratio.median > 1.0 else "faster") if change.certain else "within the spread"
        failed = fail_above is not None and ratio.median > 1.0 + fail_above / 100.0
        style = "bold red" if failed else {"slower": "yellow", "faster": "green"}.get(word, "dim")
        shown.add_row(
            change.cell,
            change.mode,
            spread_told(change.before, 1),
            spread_told(change.after, 1),
            spread_told(ratio, 3),
            f"{word}, too much" if failed else word,
            style=style,
        )
    console.print(shown)
