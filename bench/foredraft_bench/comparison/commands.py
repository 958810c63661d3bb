"""``foredraft bench run``, ``bench --quick``, ``bench --full`` and ``bench compare``: from options to a report."""

from __future__ import annotations

import dataclasses
import importlib
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from foredraft_cloud.arithmetic import DTYPE_HELP
from foredraft_shared.errors import UsageError
from foredraft_shared.interrupts import interrupts_wait
from foredraft_shared.messages import SamplingParams

from ..modes import MODES
from ..peers.mode import PEERS
from ..processes import stop_on_termination
from ..prompts import DEMONSTRATION, read_prompts
from ..stage import Pair, Stage, short_name
from .document import Report, SetUp, read_report, write_report
from .grid import Cell, Plan, chosen_modes, cross, full, network, networks, quick, whole_numbers
from .machine import describe_machine
from .markdown import as_markdown
from .measure import expected_ms, measure, modes_told, now_utc
from .page import write_page
from .sensors import PowerMeter
from .versus import changes, obstacles, print_comparison, slower_than
from .words import cut_told

__all__ = ["MINUTES", "bench_full", "bench_quick", "compare", "render", "run"]

REPORT, TABLE, PAGE = "report.json", "report.md", "report.html"
MINUTES = typer.Option(
    min=0, help="Stop after measuring for so long, with what has been measured; by default when all is done."
)


def run(
    out: Annotated[Path, typer.Option(help="Folder for the report; made if need be.")] = Path("out/bench"),
    target: Annotated[str, typer.Option(help="The cloud's model: a name, folder, hub id or GGUF file.")] = (
        "smollm2-135m"
    ),
    draft: Annotated[str, typer.Option(help="The device's, as `foredraft demo` takes it.")] = "auto",
    profiles: Annotated[
        str, typer.Option(help="Networks by name, or recordings (.csv), with commas between; default: lan,5g,lte.")
    ] = "",
    rtt: Annotated[str, typer.Option(help="Plain networks by their round trips in ms, with commas between.")] = "",
    lengths: Annotated[str, typer.Option(help="Longest answers in tokens, with commas between.")] = "48",
    concurrency: Annotated[str, typer.Option(help="So many devices at once, with commas between.")] = "1",
    modes: Annotated[str, typer.Option(help="Which to compare, with commas between; default: all.")] = "",
    prompts: Annotated[
        Path | None, typer.Option(help="JSON lines with `prompt` or `turns` instead of the three built in.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often all prompts are answered in each mode.")] = 2,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Keep the most probable tokens up to this mass.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, prompt and target: same text.")] = 0,
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "bfloat16",
    exits: Annotated[str | None, typer.Option(help="Layers that hint, such as 10,20; see `foredraft serve`.")] = None,
    past_the_end: Annotated[
        bool, typer.Option("--past-the-end", help="Write on where the model would stop: answers of full length.")
    ] = False,
    minutes: Annotated[float | None, MINUTES] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only models that are on this machine.")] = False,
) -> None:
    """Compare modes over networks of your choice; every combination of networks, lengths and devices is measured."""
    cells = cross(
        networks(profiles, rtt),
        whole_numbers(lengths, "--lengths"),
        whole_numbers(concurrency, "--concurrency"),
        chosen_modes(modes),
        repeats,
    )
    _carry_out(
        Plan(
            Pair(target, draft, dtype, exits, offline),
            cells,
            tuple(read_prompts(prompts)) if prompts else DEMONSTRATION,
            SamplingParams(temperature=temperature, top_p=top_p, seed=seed),
            past_the_end,
        ),
        out,
        minutes,
    )


def bench_quick(pair: Pair, out: Path, minutes: float | None) -> None:
    """The quick form."""
    _carry_out(quick(pair), out, minutes)


def bench_full(pair: Pair, out: Path, minutes: float | None, recording: Path | None) -> None:
    """The full grid."""
    _carry_out(full(pair, network(str(recording)) if recording else None), out, minutes)


def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="The report.json of one run.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="That of another.")],
    fail_above: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Exit with 1 if a mode has become slower by more than so many percent, if B lacks one that A has, or if B's "
            "modes wrote different tokens.",
        ),
    ] = None,
) -> None:
    """Tell what has become faster or slower from one report to another, and what differs in how they were made."""
    one, other = read_report(before), read_report(after)
    found = changes(one, other)
    console = Console()
    print_comparison(console, one, other, found, fail_above)
    if fail_above is not None and (slower_than(found, fail_above) or obstacles(one, other, found)):
        raise typer.Exit(1)


def render(
    report: Annotated[Path, typer.Argument(metavar="REPORT.json", help="The report.json of a run.")],
) -> None:
    """Make table and page of a report again, beside it: to see an old one with new pictures."""
    _write_all(read_report(report), report.parent, json_too=False)


# --- carrying a plan out


class _TimeIsUp(Exception):
    """The minutes that were given are over."""


def _carry_out(plan: Plan, out: Path, minutes: float | None) -> None:
    importlib.import_module("matplotlib")  # that it is missing is to be said before the work and not after it
    _check_folder(out)
    stop_on_termination()
    console = Console(stderr=True)
    began = time.monotonic()
    machine = describe_machine()  # before we bind ourselves to one core
    plan = dataclasses.replace(plan, pair=plan.pair.named())
    report = _empty_report(plan, machine)

    def saved() -> None:
        report.took_s = round(time.monotonic() - began, 1)
        write_report(out / REPORT, report)

    try:
        with ExitStack() as stack:
            stack.callback(_close_modes)
            stage = stack.enter_context(Stage(plan.pair))
            report.set_up.edge_cores, report.set_up.cloud_cores = stage.cores.edge, stage.cores.cloud
            power = stack.enter_context(PowerMeter())
            report.power_meter = power.available
            console.print(_introduction(plan, stage), highlight=False, soft_wrap=True)
            ends = time.monotonic() + 60.0 * minutes if minutes is not None else math.inf
            with _bar(plan, console) as told:

                def in_time(cell: Cell, mode: str, done_ms: float) -> None:
                    told(cell, mode, done_ms)
                    if mode and time.monotonic() > ends:
                        raise _TimeIsUp

                measure(plan, stage, power, report.cells, in_time, saved, until=began + plan.within_s)
        report.complete = True
    except _TimeIsUp:
        console.print(f"The {minutes:g} minutes are over.", highlight=False)
    finally:
        if any(cell.samples or cell.peers for cell in report.cells):
            report.took_s = round(time.monotonic() - began, 1)
            with interrupts_wait():  # impatience must not cost what was measured
                _write_all(report, out)
    if report.differences:
        for difference in report.differences:
            console.print("[bold red]The modes wrote different tokens[/]:", end=" ")
            console.print(difference.described, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)


def _close_modes() -> None:
    for mode in MODES.values():
        mode.close()


def _empty_report(plan: Plan, machine: dict[str, str]) -> Report:
    sampling = plan.sampling
    return Report(
        set_up=SetUp(
            target=plan.pair.target,
            draft=plan.pair.draft,
            dtype=plan.pair.dtype,
            exits=plan.pair.exits,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            past_the_end=plan.past_the_end,
            prompts=plan.prompts,
            warm_up_tokens=plan.warm_up_tokens,
            edge_cores=(),
            cloud_cores=(),
        ),
        machine=machine,
        modes=modes_told([name for name in plan.modes if name not in PEERS]),
        peers=modes_told([name for name in plan.modes if name in PEERS]),
        command=shlex.join(["foredraft", *sys.argv[1:]]),
        began_utc=now_utc(),
        planned_cells=len(plan.cells),
    )


def _write_all(report: Report, folder: Path, *, json_too: bool = True) -> None:
    """JSON first: whatever goes wrong with the pictures, the figures are there."""
    if json_too:
        write_report(folder / REPORT, report)
    (folder / TABLE).write_text(as_markdown(report), encoding="utf-8")
    write_page(folder / PAGE, report)
    cut = cut_told(report)
    Console().print(
        f"{'Report' if report.complete else 'Partial report'}{f' ({cut})' if cut else ''}: {folder / PAGE}, {TABLE}, {REPORT}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _check_folder(out: Path) -> None:
    """Complain now rather than after the work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".{REPORT}.writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write into {out}: {error.strerror}; name a folder with --out.") from None


def _introduction(plan: Plan, stage: Stage) -> str:
    sampling = plan.sampling
    drawn = "greedy" if sampling.greedy else f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}"
    return (
        f"cloud {Path(plan.pair.target).name} in {plan.pair.dtype}, {stage.cores.describe('cloud')}; "
        f"edge {short_name(plan.pair.draft)}, {stage.cores.describe('edge')}; {drawn}; "
        f"{_counted(len(plan.cells), 'cell')}, {_counted(len(plan.modes), 'mode')}"
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


@contextmanager
def _bar(plan: Plan, console: Console) -> Iterator[Callable[[Cell, str, float], None]]:
    """A bar with the time left; without a terminal a line for each cell."""
    # A cell's warm-up is not counted: its time is spread over what follows.
    total = sum(
        expected_ms(plan, cell, mode) * cell.runs * len(plan.prompts_of(cell))
        for cell in plan.cells
        for mode in cell.modes
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=2, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        seen: list[Cell] = []

        def told(cell: Cell, mode: str, done_ms: float) -> None:
            if cell not in seen:
                seen.append(cell)
                if not console.is_terminal:
                    console.print(f"{len(seen)}/{len(plan.cells)} {cell.title}", highlight=False, soft_wrap=True)
            shown = f"{len(seen)}/{len(plan.cells)} {cell.title}"
            progress.update(task, advance=done_ms, description=f"{shown}: {MODES[mode].label}" if mode else shown)

        yield told
