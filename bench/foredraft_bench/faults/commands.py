"""``foredraft bench faults``: break everything that can break, and see whether anybody can tell from the text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["faults"]


def faults(
    out: Annotated[Path, typer.Option(help="Folder for faults.md and faults.json.")] = Path("out/faults"),
    short: Annotated[
        bool, typer.Option("--short", help="Every kind of fault once, with a toy target: a minute.")
    ] = False,
    only: Annotated[str, typer.Option(help="Only faults whose name contains this.")] = "",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do not go on with an unfinished report in the folder.")
    ] = False,
) -> None:
    """Kill servers and devices, cut links, lose messages, and compare each text with the undisturbed one."""
    from rich.console import Console

    from ..processes import stop_on_termination
    from .injuries import full_faults, short_faults
    from .matrix import Matrix, cells
    from .report import Report
    from .server import TOY
    from .world import Settings, World

    stop_on_termination()
    settings = Settings(target=TOY, draft=TOY, stuck_s=1.5, pause_s=1.0) if short else Settings()
    chosen = [fault for fault in (short_faults if short else full_faults)(settings) if only in fault.name]
    report = Report(out, {**settings.as_json(), "short": short, "only": only}, fresh=fresh)
    console = Console()
    done = {(row.fault, row.sampling, row.mode) for row in report.rows}
    wanted = cells(chosen, every=not short)
    left = [cell for cell in wanted if cell.key not in done]
    if done:
        console.print(f"going on with {out}: {len(done)} of {len(wanted)} rows are there.", highlight=False)
    with World(settings) as world:
        matrix = Matrix(world)
        matrix.learn()
        for row in matrix.run(left):
            report.add(row)
            times = [
                f"{name} {value:.0f} ms" for name, value in (("edge", row.edge_ms), ("back", row.back_ms)) if value
            ]
            outcome = "[green]identical[/]" if row.right else "[bold red]WRONG[/]"
            console.print(
                f"{len(report.rows):3}/{len(wanted)} {row.fault} · {row.sampling} · {row.mode}: {outcome} {', '.join(times)}",
                highlight=False,
            )
    report.write(complete=True)
    wrong = [row for row in report.rows if not row.right]
    console.print(f"the report is {out / 'faults.md'}.", highlight=False)
    if wrong:
        raise typer.Exit(1)
