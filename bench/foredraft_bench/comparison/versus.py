"""Two reports beside each other: what has become faster or slower, and what differs in how they were made.

Texts differ more from each other than modes do. So a mode is compared by the texts that it wrote in both reports: the same
prompt, run and device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .document import CellResult, Report
from .figures import Spread, add_up
from .samples import Sample
from .words import cut_told, spread_told

__all__ = ["Change", "changes", "differences_in_set_up", "obstacles", "print_comparison", "slower_than"]

_FEW = 0.5
"""Less than this share of the texts in common: nothing is certain."""


@dataclass(frozen=True, slots=True)
class Change:
    """One mode under one set of conditions, in two reports."""

    cell: str
    mode: str
    before: Spread
    """Ms a token, of the texts in both…"""
    after: Spread
    """…and likewise."""
    texts: int = 1
    """So many texts are in both…"""
    of_texts: int = 1
    """…of so many that the report with more of them has."""

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
        """Whether all runs of one are faster than all of the other, there were several, and most of the texts are in both."""
        several = self.before.lowest < self.before.highest and self.after.lowest < self.after.highest
        many = self.texts >= _FEW * self.of_texts
        return many and several and not self.ratio.lowest <= 1.0 <= self.ratio.highest


def changes(before: Report, after: Report) -> list[Change]:
    """What both reports measured, in the order of the first."""
    found = []
    others = {cell.key: cell for cell in after.cells}
    for cell in before.cells:
        other = others.get(cell.key)
        if other is None:
            continue
        for name, samples in cell.samples.items():
            own, others_texts = _texts(before, samples), _texts(after, other.samples.get(name, ()))
            both = [text for text in own if text in others_texts]
            mine = add_up([own[text] for text in both]).ms_per_token
            its = add_up([others_texts[text] for text in both]).ms_per_token
            if mine is not None and its is not None and mine.lowest > 0 and its.lowest > 0:
                most = max(len(own), len(others_texts))
                found.append(Change(cell.title, before.label(name), mine, its, len(both), most))
    return found


def _texts(report: Report, samples: Iterable[Sample]) -> dict[Hashable, Sample]:
    """Samples by prompt (its words, and which of them it is if they stand there twice), run and device."""
    prompts = report.set_up.prompts
    told = {index: (prompt, prompts[:index].count(prompt)) for index, prompt in enumerate(prompts)}
    return {(told.get(sample.prompt), *sample.text[1:]): sample for sample in samples if sample.prompt in told}


def obstacles(before: Report, after: Report, found: Sequence[Change]) -> list[str]:
    """Why nobody can say that nothing in the second report is slower or wrong, in words.

    Args:
        found: what :func:`changes` says of them.
    """
    told = [f"different tokens in the second report: {each.described}" for each in after.differences]
    if not found:
        return ["nothing could be compared", *told]
    compared = {(change.cell, change.mode) for change in found}
    paced = [(cell, [name for name, each in cell.figures().items() if each.ms_per_token]) for cell in before.cells]
    for cell, names in paced:
        missing = [label for label in map(before.label, names) if (cell.title, label) not in compared]
        if missing:
            which = "nothing" if len(missing) == len(names) else f"no {', no '.join(missing)}"
            told.append(f"{which} to compare with in the second report: {cell.title}")
    return told


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
    for which, report in (("first", before), ("second", after)):
        told += [f"the {which} report is partial"] if not report.complete else []
        told += [f"the {which} report has {cut}"] if (cut := cut_told(report)) else []
    others = {cell.key: cell for cell in after.cells}
    for cell in before.cells:
        if cell.key in others:
            mine, its = _all_texts(before, cell), _all_texts(after, others[cell.key])
            if mine != its:
                told.append(f"{cell.title}: {len(mine & its)} texts in common, of {len(mine)} and {len(its)}")
    return told


def _all_texts(report: Report, cell: CellResult) -> set[Hashable]:
    return set(_texts(report, (sample for samples in cell.samples.values() for sample in samples)))


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
        console.print("The reports have no network, length, mode and text in common: nothing to compare.")
    else:
        _print_table(console, found, fail_above)
    gate = fail_above is not None
    for reason in obstacles(before, after, found) if gate or found else ():
        console.print(f"[bold red]{'Failed' if gate else 'Beware'}[/]: {escape(reason)}.", soft_wrap=True)


def _print_table(console: Console, found: Sequence[Change], fail_above: float | None) -> None:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("cell")
    shown.add_column("mode")
    for heading in ("before ms", "after ms", "after / before"):
        shown.add_column(heading, justify="right")
    partly = any(change.texts < change.of_texts for change in found)
    if partly:
        shown.add_column("texts", justify="right")
    shown.add_column("")
    for change in found:
        ratio = change.ratio
        word = ("slower" if ratio.median > 1.0 else "faster") if change.certain else "within the spread"
        if change.texts < _FEW * change.of_texts:
            word = "too few texts in common"
        failed = fail_above is not None and ratio.median > 1.0 + fail_above / 100.0
        style = "bold red" if failed else {"slower": "yellow", "faster": "green"}.get(word, "dim")
        shown.add_row(
            change.cell,
            change.mode,
            spread_told(change.before, 1),
            spread_told(change.after, 1),
            spread_told(ratio, 3),
            *([f"{change.texts} of {change.of_texts}"] if partly else []),
            f"{word}, too much" if failed else word,
            style=style,
        )
    console.print(shown)
