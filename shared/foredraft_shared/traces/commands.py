"""``foredraft trace``: look at what a run recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import UsageError
from ..transports.recording import write_recording
from .chrome import chrome_trace
from .network import network_of
from .reader import Trace, read_trace
from .summary import Summary, summarise

__all__ = ["trace"]

trace = typer.Typer(help="Show where the time of a recorded run went.", no_args_is_help=True)

TraceFile = Annotated[Path, typer.Argument(metavar="FILE", help="A trace, as written with `--trace FILE`.")]


@trace.command()
def export(
    file: TraceFile,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: beside FILE, ending .json.")] = None,
) -> None:
    """Write the trace in the Chrome trace format: open it at ui.perfetto.dev."""
    output = output or file.with_suffix(".json")
    if output.exists() and file.exists() and output.samefile(file):
        raise UsageError(f"{output} is the trace itself; name another file with --output.")
    loaded = _read(file)
    try:
        output.write_text(json.dumps(chrome_trace(loaded), ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}; name another file with --output.") from None
    Console(stderr=True).print(f"{len(loaded.rounds)} rounds in {output}; open it at ui.perfetto.dev.", highlight=False)


@trace.command()
def summary(file: TraceFile) -> None:
    """Tell where the time of a round goes, per round and per token."""
    loaded = _read(file)
    summaries = summarise(loaded)
    if not summaries:
        raise UsageError(f"{file} holds no committed round yet; let the run write some tokens first.")
    console = Console()
    for each in summaries:
        console.print(_table(each))
        console.print(" · ".join(_facts(each)), highlight=False, soft_wrap=True)


@trace.command()
def link(
    file: TraceFile,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="CSV", help="The recording to write.")],
) -> None:
    """Write what the network was like during the run: `foredraft link --trace-file CSV` plays it again."""
    if output.exists() and file.exists() and output.samefile(file):
        raise UsageError(f"{output} is the trace itself; name another file with --output.")
    rows = network_of(_read(file))
    if len(rows) < 2:
        raise UsageError(
            f"{file} tells the round trip of {len(rows)} rounds; record a run that waits: `foredraft generate --mode "
            "speculate --trace FILE`."
        )
    write_recording(output, rows)
    Console(stderr=True).print(f"{len(rows)} round trips in {output}.", highlight=False, soft_wrap=True)


def _read(file: Path) -> Trace:
    loaded = read_trace(file)
    if loaded.torn:
        Console(stderr=True).print("[yellow]note:[/] the last line is cut short (the writer was stopped); left out.")
    return loaded


def _table(total: Summary) -> Table:
    title = Text(f"{total.kind}: {total.tokens} tokens in {total.rounds} rounds")
    table = Table(title=title, title_justify="left")
    table.add_column("what the caller waited for")
    for column in ("ms / round", "ms / token", "share"):
        table.add_column(column, justify="right")

    def row(name: str, microseconds: int, share: bool = True) -> None:
        part = f"{microseconds / total.time.total_us:.1%}" if share and total.time.total_us else ""
        table.add_row(
            name, f"{microseconds / 1000 / total.rounds:.2f}", f"{total.ms_per_token(microseconds):.2f}", part
        )

    time = total.time
    row("drafting", time.drafting_us)
    row("network", time.network_us)
    row("cloud queue", time.queue_us)
    row("cloud compute", time.compute_us)
    row("everything else", time.other_us)
    table.add_section()
    row("all", time.total_us)
    table.add_section()
    row("drafting nobody waited for", time.hidden_drafting_us, share=False)
    row("loop overhead, by its own clock", total.overhead_us, share=False)
    return table


def _facts(total: Summary) -> list[str]:
    facts = [f"{total.bytes / max(1, total.tokens):.1f} bytes/token"]
    if total.drafted:
        facts.append(
            f"{total.accepted / total.rounds:.2f} of {total.drafted / total.rounds:.2f} drafted accepted a round"
        )
    if total.guesses:
        facts.append(f"guesses right {total.guesses_hit} of {total.guesses}")
    if total.hints:
        facts.append(f"hints right {total.hints_right} of {total.hints}")
    if total.discarded:
        facts.append(f"{total.discarded} drafted in vain")
    return facts
