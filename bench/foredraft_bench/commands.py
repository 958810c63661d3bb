"""``foredraft bench``: the measurements behind the figures in the documents."""

from __future__ import annotations

import typer

from .drafters import drafters
from .engine import engine
from .faults.commands import faults
from .load.command import load
from .networks import networks

__all__ = ["bench"]

bench = typer.Typer(help="Measure what the documents claim.", no_args_is_help=True)


@bench.callback()
def _group() -> None:
    """Measure what the documents claim."""


bench.command()(drafters)
bench.command()(engine)
bench.command()(faults)
bench.command()(networks)
bench.command()(load)
