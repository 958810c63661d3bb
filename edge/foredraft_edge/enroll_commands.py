"""``foredraft enroll``: make this device known to a server."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

from foredraft_shared.errors import UsageError

from .times_asked import LONGEST_S, a_number

__all__ = ["enroll"]


def enroll(
    server: Annotated[
        str | None,
        typer.Argument(metavar="HOST:PORT", help="Of the server's control plane; without it, say where we are."),
    ] = None,
    token: Annotated[str | None, typer.Option(help="From the operator (`foredraft keys token`).")] = None,
    name: Annotated[str | None, typer.Option(help="What the operator's list calls this device.")] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Remove the enrolment with that server.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=LONGEST_S, callback=a_number, help="Seconds to wait for the server.")
    ] = 10.0,
) -> None:
    """Enrol this device with a server: from then on what they say to each other is encrypted."""
    from . import enrolment

    if server is None:
        if token or forget:
            raise UsageError("name the server; write `foredraft enroll HOST:PORT …`.")
        entries = enrolment.enrolments()
        for entry in entries:
            typer.echo(f"{' '.join(entry.endpoints)}  as {entry.device}  ({entry.model}, key {entry.public_key[:8]})")
        if not entries:
            typer.echo("this device is enrolled nowhere; ask an operator for a token (`foredraft keys token`).")
        return
    if forget:
        gone = enrolment.forget(server)
        if gone is None:
            typer.echo("forgotten; it had never been answered.")
        else:
            typer.echo(f"forgotten; the operator may now revoke it: foredraft keys revoke '{gone.device}'")
        return
    if token is None:
        raise UsageError("enrolling needs --token; an operator of the server makes one with `foredraft keys token`.")
    made = enrolment.enrol(server, token, name or platform.node() or "device", timeout_s=timeout)
    typer.echo(
        f"enrolled as {made.device} with {made.model or 'the server'}; now: foredraft chat --server {made.endpoints[0]}"
    )
