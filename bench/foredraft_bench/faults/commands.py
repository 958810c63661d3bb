"""``foredraft bench faults``: break everything that can break, and see whether anybody can tell from the text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["faults", "soak"]


def faults(
    out: Annotated[Path, typer.Option(help="Folder for faults.md and faults.json.")] = Path("out/faults"),
    short: Annotated[
        bool, typer.Option("--short", help="Every kind of fault once, with a toy target: a minute.")
    ] = False,
    deadlines: Annotated[bool, typer.Option("--deadlines", help="Only the steps with a deadline.")] = False,
    steps: Annotated[int, typer.Option(min=0, help="Steps with a deadline, all faults together; 0: none.")] = 1000,
    only: Annotated[str, typer.Option(help="Only faults whose name contains this.")] = "",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do not go on with an unfinished report in the folder.")
    ] = False,
) -> None:
    """Kill servers and devices, cut links, lose messages, and compare each text with the undisturbed one."""
    from rich.console import Console
    from rich.markup import escape

    from foredraft_shared.errors import UsageError

    from ..processes import stop_on_termination
    from .deadlines import run_steps, summary, worst_faults
    from .injuries import full_faults, short_faults
    from .matrix import Matrix, cells
    from .report import Report
    from .server import TOY
    from .world import Settings, World

    stop_on_termination()
    settings = Settings(target=TOY, draft=TOY, stuck_s=1.5, crowded_s=1.5, cache=96) if short else Settings()
    known = (short_faults if short else full_faults)(settings)
    chosen = [fault for fault in known if only in fault.name]
    if not chosen:
        raise UsageError(f"no fault's name contains {only!r}; there are: {', '.join(fault.name for fault in known)}.")
    wanted = [] if deadlines else cells(chosen, every=not short)
    strained = worst_faults(chosen) if steps else []
    if not wanted and not strained:
        what = (
            "take no steps"
            if not steps
            else f"leave out {', '.join(fault.name for fault in chosen)}, in which no step is late"
        )
        raise UsageError(
            f"steps with a deadline are all that --deadlines asks for, and these options {what}; change them."
        )
    report = Report(out, {**settings.as_json(), "short": short, "only": only, "steps": steps}, fresh=fresh)
    console = Console(highlight=False)
    done = {(row.fault, row.sampling, row.mode) for row in report.rows}
    left = [cell for cell in wanted if cell.key not in done]
    if done:
        console.print(f"going on with {out}: {len(done)} of {len(wanted)} rows are there.")
    with World(settings) as world:
        matrix = Matrix(world)
        if left:
            matrix.learn()
        for row in matrix.run(left):
            report.add(row)
            times = [
                f"{name} {value:.0f} ms"
                for name, value in (("edge", row.edge_ms), ("back", row.back_ms))
                if value is not None
            ]
            outcome = "[green]identical[/]" if row.right else "[bold red]WRONG[/]"
            count = f"{len(report.rows):3}/{len(wanted)}"
            console.print(f"{count} {' · '.join((row.fault, row.sampling, row.mode))}: {outcome} {', '.join(times)}")
        stepped = []
        for stepped_row in run_steps(world, strained, steps) if strained else ():
            stepped.append(stepped_row)
            report.deadlines = summary(stepped)
            report.write(complete=False)
            console.print(
                f"deadlines · {stepped_row.fault}: {stepped_row.steps} steps, the latest after {stepped_row.worst_ms:.1f} ms"
                + ("" if stepped_row.right else f": [bold red]{escape(stepped_row.error or 'WRONG')}[/]")
            )
    report.write(complete=True)
    console.print(f"the report is {out / 'faults.md'}.")
    late = sum(row.late for row in stepped)
    if late:
        console.print(f"[bold red]{late} steps were late[/].")
    if late or not all(row.right for row in report.rows) or not all(row.right for row in stepped):
        raise typer.Exit(1)


def soak(
    seconds: Annotated[float, typer.Option(min=10.0, help="How long.")] = 600.0,
    sessions: Annotated[int, typer.Option(min=1, help="Texts written at once.")] = 32,
    seed: Annotated[int, typer.Option(help="Of faults and texts.")] = 0,
    tolerance: Annotated[
        int, typer.Option(min=0, help="KiB by which memory may grow and still count as flat; 2 % always may.")
    ] = 4096,
    out: Annotated[Path, typer.Option(help="Folder for soak.json.")] = Path("out/soak"),
) -> None:
    """Write many texts at once under random faults; each must be right, and no process may grow."""
    from rich.console import Console
    from rich.markup import escape

    from foredraft_shared.interrupts import interrupts_wait

    from ..processes import stop_on_termination
    from ..report import write_atomically
    from .report import machine, make_folder
    from .soak import Soak, SoakOptions

    stop_on_termination()
    make_folder(out)
    console = Console(highlight=False)
    facts = machine()
    options = SoakOptions(seconds=seconds, sessions=sessions, seed=seed, growth_floor_kib=tolerance)
    report = Soak(options, console.print).run()
    with interrupts_wait():  # impatience must not cost what was measured
        write_atomically(out / "soak.json", {"machine": facts, **report.as_json()})
    if report.interrupted:
        console.print("Ended early: memory is told, but so short a time does not tell whether it grows.")
    faults_done = ", ".join(f"{count} × {name}" for name, count in sorted(report.faults.items()))
    console.print(f"{report.texts} texts, {report.tokens} tokens; faults: {faults_done}.")
    console.print(f"typed errors: {dict(report.typed_errors) or 'none'}; others: {report.untyped_errors or 'none'}.")
    for name, (before, after) in report.at_rest.items():
        each = report.growth.get(name)
        memory = (
            f"RSS {each.rss_start_kib / 1024:.1f} → {each.rss_end_kib / 1024:.1f} MiB "
            f"({each.rss_slope_kib_per_minute:+.0f} KiB a minute), "
            if each is not None
            else ""
        )
        console.print(
            f"{name}: {memory}descriptors at rest {before.descriptors} → {after.descriptors}, "
            f"threads at rest {before.threads} → {after.threads}"
        )
    for complaint in report.complaints:
        console.print(f"[bold red]wrong[/]: {escape(complaint)}")
    if report.complaints:
        raise typer.Exit(1)
    if report.interrupted:
        raise typer.Exit(130)
