"""``foredraft bench serving``: our server beside others, on the same model, machine and prompts, in one run."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console

from foredraft_cloud.arithmetic import DTYPE_HELP
from foredraft_shared.errors import BackendMissing, ModelUnsupported
from foredraft_shared.models import Model, open_model
from foredraft_shared.models.store import locate
from foredraft_shared.version import version

from ..processes import Cores, choose_cores, pin, stop_on_termination
from ..report import check_writable, write_atomically
from .device import Habits, KnownText
from .exchange import Exchange
from .in_llama import InLlama
from .others import InLlamaServer, InTransformers
from .pattern import independent
from .rows import learn, measure
from .setting import Setting, counts_from, known_texts, machine, serving

__all__ = ["compare_serving"]


class _Engine(Protocol):
    @property
    def name(self) -> str: ...

    def tokens_per_second(self, texts: list[KnownText], sessions: int, seconds: float) -> float: ...


@dataclass(frozen=True, slots=True)
class _Ours:
    """Our server with devices of these habits."""

    name: str
    exchange: Exchange
    known: list[KnownText]
    """What it says itself: it may be another text in another arithmetic."""
    habits: Habits
    acceptance: float
    warm_up_s: float

    def tokens_per_second(self, texts: list[KnownText], sessions: int, seconds: float) -> float:
        errs = independent(self.acceptance)
        row = measure(
            self.exchange, self.known, sessions, self.habits, errs, seconds=seconds, warm_up_s=self.warm_up_s
        )  # fmt: skip
        return row.tokens_per_second


def compare_serving(
    sessions: Annotated[str, typer.Option(help="How many at once, with commas between.")] = "1,4,16",
    model: Annotated[str, typer.Option(help="A name, a folder or a GGUF file.")] = "smollm2-135m",
    dtype: Annotated[
        list[str] | None,
        typer.Option(help=f"{DTYPE_HELP} May be repeated; by default bfloat16. llama.cpp uses what the file holds."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of each target.")] = 1,
    draft_length: Annotated[int, typer.Option(min=1, help="Tokens a draft, where devices draft.")] = 4,
    acceptance: Annotated[float, typer.Option(help="Probability that a drafted token is accepted.")] = 0.8,
    token_ms: Annotated[float, typer.Option(min=0.0, help="What drafting a token takes a device.")] = 5.0,
    max_tokens: Annotated[int, typer.Option(min=2, help="Length of a text.")] = 48,
    seconds: Annotated[float, typer.Option(min=0.1, help="Measured for each figure.")] = 6.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there too.")
    ] = None,
) -> None:
    """Compare throughput with transformers and llama.cpp's server."""
    counts = counts_from(sessions)
    if json_file is not None:
        check_writable(json_file)
    stop_on_termination()
    opened = open_model(model)
    texts = known_texts(opened, max(counts), max_tokens)
    dtypes = dtype or ["bfloat16"]
    context = max(len(text.prompt) for text in texts) + max_tokens
    settings = [Setting(model, each, threads, max(counts), context) for each in dtypes]
    cores = choose_cores() if threads == 1 else Cores()
    pin(0, cores.edge)
    notes: list[str] = []
    figures: dict[str, dict[int, float]] = {}
    with contextlib.ExitStack() as stack:
        drafting = Habits(draft_length=draft_length, token_s=token_ms / 1e3)
        engines: list[_Engine] = []
        for setting in settings:
            exchange = stack.enter_context(serving(setting, opened, cores))
            known = known_texts(opened, max(counts), max_tokens)
            learn(exchange, known)
            ours = f"foredraft in {setting.dtype}"
            drafts = f"{ours}, drafts of {draft_length}, {acceptance:.0%} right"
            engines += [
                _Ours(f"{ours}, the target alone", exchange, known, Habits("cloud"), acceptance, 1.5),
                _Ours(drafts, exchange, known, drafting, acceptance, 1.5),
            ]
        engines += _others(opened, settings[0], cores, stack, notes)
        for count in counts:
            for engine in engines:  # in turn, so that whatever else the machine does falls on all alike
                figures.setdefault(engine.name, {})[count] = engine.tokens_per_second(texts, count, seconds)
    print("| tokens/s | " + " | ".join(f"{count} at once" for count in counts) + " |")
    print("|---|" + "---|" * len(counts))
    for name, row in figures.items():
        print(f"| {name} | " + " | ".join(f"{row[count]:.1f}" for count in counts) + " |")
    for note in notes:
        Console(stderr=True).print(note, style="dim", soft_wrap=True, highlight=False)
    if json_file is not None:
        rows = [
            {"engine": name, "sessions": count, "tokens_per_second": value}
            for name, row in figures.items()
            for count, value in row.items()
        ]
        about = {
            "foredraft": version(),
            "machine": machine(),
            "targets": [asdict(setting) for setting in settings],
            "left_out": notes,
        }
        write_atomically(json_file, {**about, "rows": rows})


def _others(
    model: Model, setting: Setting, cores: Cores, stack: contextlib.ExitStack, notes: list[str]
) -> list[_Engine]:
    """Those that are there; why one is not goes into ``notes``."""
    found: list[_Engine] = []
    try:
        theirs = InTransformers(model, setting.dtype, setting.threads, cores)
        stack.callback(theirs.close)
        found.append(theirs)
    except (BackendMissing, ModelUnsupported) as error:
        notes.append(f"transformers left out: {error}")
    gguf = locate(setting.model)
    try:
        llama = InLlamaServer(gguf, setting.threads, setting.sessions, setting.context, cores)
        found.append(stack.enter_context(llama))
    except BackendMissing as error:
        notes.append(f"llama.cpp's server left out: {error}")
        try:
            here = InLlama(gguf, setting.threads, setting.sessions, setting.context, cores)
            stack.callback(here.close)
            found.append(here)
        except BackendMissing as further:
            notes.append(f"llama.cpp left out: {further}")
    return found
