"""``foredraft keys``: which devices may use this server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from foredraft_shared.errors import UsageError

from .audit import short
from .identity import certificate, server_key_pair
from .keys import KeyStore, data_folder, written_token

__all__ = ["keys"]

keys = typer.Typer(name="keys", help="Say which devices may use this server.", no_args_is_help=True)

Data = Annotated[
    Path | None,
    typer.Option(envvar="FOREDRAFT_DATA", help="Folder of the server's keys; by default in the user's data folder."),
]


@keys.command()
def token(
    valid: Annotated[float, typer.Option(min=0.01, help="Hours until it expires.")] = 24.0,
    control: Annotated[
        str, typer.Option(help="Where devices reach the control plane, for the line to copy.")
    ] = "HOST:5556",
    data: Data = None,
) -> None:
    """Make a token with which one device can enrol, and print the line to run there."""
    folder = data or data_folder()
    fingerprint = certificate(folder).fingerprint
    with _store(folder) as store:
        made = written_token(store.make_token(valid * 3600.0), fingerprint)
    typer.echo(f"foredraft enroll {control} --token {made}")


@keys.command("list")
def list_devices(data: Data = None) -> None:
    """Devices that are, or were, let in."""
    with _store(data or data_folder()) as store:
        devices = store.devices()
    table = Table("Name", "Key", "Enrolled", "Last seen", "Revoked", box=None, pad_edge=False)
    for each in devices:
        table.add_row(each.name, short(each.public_key), _when(each.created), _when(each.seen), _when(each.revoked))
    Console(highlight=False, markup=False).print(table if devices else "no device is enrolled; `foredraft keys token`.")


@keys.command()
def revoke(
    device: Annotated[str, typer.Argument(help="Its name, or its key as the list shows it.")],
    data: Data = None,
) -> None:
    """Let a device in no more; if it is connected, it is cut off within a second."""
    with _store(data or data_folder()) as store:
        gone = store.revoke(device)
    typer.echo(f"{gone.name} ({gone.public_key[:8]}) is revoked.")


@keys.command()
def make(
    name: Annotated[str | None, typer.Argument(help="With --public-key: what to call the device.")] = None,
    public_key: Annotated[
        str | None, typer.Option(help="Let in a device whose key was brought by other means.")
    ] = None,
    data: Data = None,
) -> None:
    """Make the server's own keys, unless it has them, and print what identifies it."""
    folder = data or data_folder()
    if (name is None) != (public_key is None):
        raise UsageError(
            "to add a device give both its name and --public-key; to have it enrol itself: foredraft keys token"
        )
    if name is not None and public_key is not None:
        with _store(folder) as store:
            store.add(public_key, name)
        typer.echo(f"{name} ({public_key[:8]}) is let in.")
        return
    typer.echo(f"server key   {server_key_pair(folder).public}")
    typer.echo(f"certificate  {certificate(folder).fingerprint.hex()}")
    typer.echo(f"kept in      {folder}")


@contextmanager
def _store(folder: Path) -> Iterator[KeyStore]:
    store = KeyStore(folder)
    try:
        yield store
    finally:
        store.close()


def _when(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
