"""``foredraft bench load``: how a server holds up as devices become many."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from foredraft_cloud.arithmetic import DTYPE_HELP
from foredraft_shared.errors import UsageError
from foredraft_shared.models import open_model
from foredraft_shared.version import version

from ..processes import Cores, choose_cores, pin, stop_on_termination
from ..prompts import read_prompts
from ..report import check_writable, write_atomically
from .device import Habits
from .pattern import Pattern, independent, recorded
from .rows import Row, learn, markdown, measure
from .setting import Setting, counts_from, known_texts, machine, serving

__all__ = ["load"]

MODES = ("speculate", "cloud")


def load(
    sessions: Annotated[str, typer.Option(help="How many at once, with commas between.")] = "1,2,4,8,16,32,64",
    modes: Annotated[str, typer.Option(help="speculate, cloud, or both with a comma between.")] = "speculate,cloud",
    model: Annotated[str, typer.Option(help="The target: a name, a folder or a GGUF file.")] = "smollm2-135m",
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "bfloat16",
    threads: Annotated[int, typer.Option(min=1, help="Of the target; with 1 it gets a core of its own.")] = 1,
    in_process: Annotated[bool, typer.Option("--in-process", help="The engine alone: no sockets, no process.")] = False,
    draft_length: Annotated[int, typer.Option(min=0, help="Tokens a draft.")] = 4,
    acceptance: Annotated[float, typer.Option(help="Probability that a drafted token is accepted.")] = 0.8,
    pattern: Annotated[
        Path | None, typer.Option(help="Replay the hits and misses of this trace in place of --acceptance.")
    ] = None,
    token_ms: Annotated[float, typer.Option(min=0.0, help="What drafting a token takes a device.")] = 5.0,
    pause_ms: Annotated[float, typer.Option(min=0.0, help="Between a text and a device's next.")] = 0.0,
    rtt_ms: Annotated[float, typer.Option(min=0.0, help="Round trip of the devices' network.")] = 0.0,
    window: Annotated[int, typer.Option(min=1, help="Rounds a device has in flight; 2 chains them.")] = 1,
    ahead: Annotated[bool, typer.Option("--ahead/--wait", help="Draft on while a round is in flight.")] = True,
    max_tokens: Annotated[int, typer.Option(min=2, help="Length of a text.")] = 48,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines with questions; built in by default.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Measured for each row, at least.")] = 6.0,
    warm_up: Annotated[float, typer.Option(min=0.0, help="Seconds before that, in which devices begin.")] = 2.0,
    check: Annotated[bool, typer.Option("--check", help="Write every text alone as well, and compare.")] = False,
    exits: Annotated[str, typer.Option(help="Layers at which the target looks; see `foredraft serve`.")] = "none",
    heads: Annotated[Path | None, typer.Option(help="Trained exit heads; see `foredraft serve`.")] = None,
    drop_confidence: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Drop rows at exits; see `foredraft serve`.")
    ] = None,
    cache_mib: Annotated[
        int | None, typer.Option(min=1, help="Hard limit on the cache; see `foredraft serve`.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there, after each row.")
    ] = None,
) -> None:
    """Let many simulated devices write at once, and measure server and rounds."""
    counts = counts_from(sessions)
    wanted = [part.strip() for part in modes.split(",")]
    if unknown := [mode for mode in wanted if mode not in MODES]:
        raise UsageError(f"there is no mode {unknown[0]!r}; choose from {', '.join(MODES)}.")
    errs = recorded(pattern) if pattern is not None else independent(acceptance)
    questions = read_prompts(prompts) if prompts is not None else ()
    if json_file is not None:
        check_writable(json_file)
    stop_on_termination()
    opened = open_model(model)
    texts = known_texts(opened, max(counts), max_tokens, questions)
    context = max(len(text.prompt) for text in texts) + max_tokens
    setting = Setting(
        model, dtype, threads, max(counts), context, in_process, exits, str(heads) if heads else None, drop_confidence, cache_mib
    )  # fmt: skip
    cores = choose_cores() if threads == 1 and not in_process else Cores()
    pin(0, cores.edge)
    console = Console(stderr=True)
    report = _Report(json_file, setting, _settings(locals()), errs)
    with serving(setting, opened, cores) as exchange:
        console.print(f"writing {len(texts)} texts side by side: what devices will draft from", style="dim")
        learn(exchange, texts)
        if check:
            console.print("and each of them alone", style="dim")
            learn(exchange, texts, alone=True)
        for mode in wanted:
            habits = Habits(
                mode="cloud" if mode == "cloud" else "speculate",
                draft_length=draft_length,
                ahead=ahead,
                window=window,
                token_s=token_ms / 1e3,
                pause_s=pause_ms / 1e3,
            )
            for count in counts:
                row = measure(
                    exchange, texts, count, habits, errs, seconds=seconds, warm_up_s=warm_up, rtt_s=rtt_ms / 1e3
                )  # fmt: skip
                report.add(row)
    report.finish()


class _Report:
    """Prints rows as they come, and keeps a file that is whole at every moment."""

    def __init__(self, path: Path | None, setting: Setting, settings: dict[str, Any], pattern: Pattern) -> None:
        self._path = path
        self._rows: list[Row] = []
        self._head = {
            "foredraft": version(),
            "machine": machine(),
            "target": asdict(setting),
            "pattern": {"name": pattern.name, "acceptance": pattern.acceptance},
            "settings": settings,
        }
        self._write(complete=False)

    def add(self, row: Row) -> None:
        self._rows.append(row)
        lines = markdown(self._rows)
        for line in lines if len(self._rows) == 1 else lines[-1:]:
            print(line, flush=True)
        self._write(complete=False)

    def finish(self) -> None:
        self._write(complete=True)

    def _write(self, *, complete: bool) -> None:
        if self._path is not None:
            rows = [asdict(row) for row in self._rows]
            write_atomically(self._path, {**self._head, "complete": complete, "rows": rows})


_SETTINGS = (
    "draft_length", "token_ms", "pause_ms", "rtt_ms", "window", "ahead", "max_tokens", "seconds", "warm_up", "check",
)  # fmt: skip


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in _SETTINGS}
