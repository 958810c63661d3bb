"""``foredraft bench``: what it buys over which network, and the measurements behind the figures in the documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foredraft_cloud.arithmetic import DTYPE_HELP
from foredraft_shared.errors import UsageError

from .comparison.commands import MINUTES, bench_full, bench_quick, compare, render, run
from .drafters import drafters
from .engine import engine
from .faults.commands import faults, soak
from .load.command import load
from .load.compare import compare_serving
from .load.switches import switches
from .networks import networks
from .stage import Pair

__all__ = ["bench"]

bench = typer.Typer(help="Measure what edge and cloud together buy over which network, and what the documents claim.")


@bench.callback(invoke_without_command=True)
def _group(
    context: typer.Context,
    is_quick: Annotated[
        bool, typer.Option("--quick", help="All modes over three networks, in under five minutes with a small target.")
    ] = False,
    is_full: Annotated[
        bool, typer.Option("--full", help="All networks, lengths and numbers of devices, in about 20 minutes.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the report; made if need be.")] = Path("out/bench"),
    target: Annotated[str, typer.Option(help="The cloud's model: a name, folder, hub id or GGUF file.")] = (
        "smollm2-135m"
    ),
    draft: Annotated[str, typer.Option(help="The device's, as `foredraft demo` takes it.")] = "auto",
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "bfloat16",
    exits: Annotated[str | None, typer.Option(help="Layers that hint, such as 10,20; see `foredraft serve`.")] = None,
    recording: Annotated[
        Path | None, typer.Option(help="For --full: a recorded network (.csv) to play beside the named ones.")
    ] = None,
    minutes: Annotated[float | None, MINUTES] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only models that are on this machine.")] = False,
) -> None:
    """Measure what edge and cloud together buy over which network, and what the documents claim."""
    if is_quick and is_full:
        raise UsageError("--quick and --full exclude each other; give one.")
    if context.invoked_subcommand is not None:
        if is_quick or is_full:
            raise UsageError(f"--quick and --full stand alone; leave {context.invoked_subcommand!r} out.")
        return
    if recording is not None and not is_full:
        raise UsageError("--recording is for --full; `foredraft bench run --profiles FILE.csv` plays one by itself.")
    pair = Pair(target, draft, dtype, exits, offline)
    if is_quick:
        bench_quick(pair, out, minutes)
    elif is_full:
        bench_full(pair, out, minutes, recording)
    else:
        typer.echo(context.get_help())
        raise typer.Exit(2)


bench.command()(run)
bench.command()(compare)
bench.command()(render)
bench.command()(drafters)
bench.command()(engine)
bench.command()(faults)
bench.command()(networks)
bench.command()(load)
bench.command("serving")(compare_serving)
bench.command()(soak)
bench.command()(switches)
