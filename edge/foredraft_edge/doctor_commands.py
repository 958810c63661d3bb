"""``foredraft doctor``: why it does not work, and what to do next."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .times_asked import LONGEST_S, a_number

if TYPE_CHECKING:
    from .doctor import Finding

__all__ = ["doctor"]

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    server: Annotated[
        str | None,
        typer.Argument(
            metavar="[SERVER]",
            help="Address of `foredraft serve`; by default the server this device is enrolled with, if it is one.",
        ),
    ] = None,
    draft: Annotated[
        str, typer.Option(help="What would draft: auto, ngram, a model's name, folder or GGUF file…; or none.")
    ] = "auto",
    timeout: Annotated[
        float, typer.Option(min=1.0, max=LONGEST_S, callback=a_number, help="Seconds for the server, all in all.")
    ] = 20.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Findings for programs, with the figures behind them.")
    ] = False,
) -> None:
    """Tell why it does not work, and what to do next; ends with 1 if something has to be done."""
    from .doctor_device import default_server

    address = server if server is not None else default_server()
    if address is not None and "://" not in address:
        address = f"tcp://{address}"
    findings = []
    for finding in _findings(address, draft, timeout):
        findings.append(finding)
        if not as_json:
            _show(finding)
    failed = any(finding.status == "fail" for finding in findings)
    if as_json:
        report = {"ok": not failed, "server": address, "findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(report, indent=1))
    elif address is None:
        typer.echo(
            "this device alone was looked at; name a server to look at the way there: foredraft doctor HOST:PORT"
        )
    if failed:
        raise typer.Exit(1)


def _findings(address: str | None, draft: str, timeout_s: float) -> Iterator[Finding]:
    from foredraft_shared.transports.address import parse_address

    from .doctor_device import examine_device, open_draft
    from .doctor_server import examine_server

    if address is not None:
        parse_address(address)  # what is no address is said before anything is looked at
    yield from examine_device()
    looked_at_draft = draft == "none"
    if address is not None:
        for finding in examine_server(address, draft, timeout_s):
            looked_at_draft = looked_at_draft or finding.check == "draft"
            yield finding
    if not looked_at_draft:
        finding, drafter, _ = open_draft(draft, None, timeout_s)
        yield finding
        if drafter is not None:
            drafter.close()


def _show(finding: Finding) -> None:
    """One line; on a terminal it is folded within its column."""
    console = Console()
    told = Text(finding.finding)
    if finding.remedy:
        told.append(f"; {finding.remedy}", style="bold")
    if not console.is_terminal:
        typer.echo(f"{finding.status:<5} {finding.check:<12} {told.plain}")
        return
    table = Table.grid(padding=(0, 1))
    table.add_column(width=4, style=_STYLES[finding.status])
    table.add_column(width=12)
    table.add_column(overflow="fold")
    table.add_row(finding.status, finding.check, told)
    console.print(table)
