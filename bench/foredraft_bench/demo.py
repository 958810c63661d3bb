"""``foredraft demo``: edge and cloud write the same text in several modes, side by side, and the modes are compared."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from foredraft_cloud.arithmetic import DTYPE_HELP
from foredraft_shared.errors import UsageError
from foredraft_shared.messages import SamplingParams
from foredraft_shared.traces import TraceWriter, read_trace
from foredraft_shared.traces.chrome import chrome_trace
from foredraft_shared.transports.relay import LinkSettings
from foredraft_shared.version import version

from .metrics import Answer
from .modes import MODES as ALL_MODES
from .modes import Place, Task
from .processes import Cores, stop_on_termination
from .prompts import DEMONSTRATION, WARM_UP, read_prompts
from .report import as_json, check_writable, first_difference, table, write_atomically
from .runs import schedule
from .screen import Screen, screen_for, telling
from .stage import Pair, Stage, drafts_for_itself, encoded, short_name

__all__ = ["demo"]

MODES = {name: ALL_MODES[name] for name in ("cloud", "waiting", "hintless", "ahead")}
_SHOWN = ("cloud", "waiting", "ahead")
_WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for, checked."""

    pair: Pair
    prompts: tuple[str, ...]
    modes: tuple[str, ...]
    max_tokens: int
    sampling: SamplingParams
    link: LinkSettings

    def as_json(self, cores: Cores) -> dict[str, Any]:
        """Everything that the figures depend on, as far as a program can tell."""
        return {
            "foredraft": version(),
            "target": self.pair.target,
            "draft": self.pair.draft,
            "dtype": self.pair.dtype,
            "exits": self.pair.exits,
            "max_tokens": self.max_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "seed": self.sampling.seed,
            "rtt_ms": self.link.rtt_ms,
            "jitter_ms": self.link.jitter_ms,
            "rate_mbps": self.link.rate_mbps,
            "edge_cores": list(cores.edge),
            "cloud_cores": list(cores.cloud),
            "prompts": list(self.prompts),
        }


_STAND_IN = "as slow as one larger than its draft; as served: --dtype bfloat16"


def demo(
    target: Annotated[str, typer.Option(help="The cloud's model: a name, folder, hub id or GGUF file.")] = (
        "smollm2-135m"
    ),
    draft: Annotated[
        str,
        typer.Option(
            help="The device's: a model, first:LAYERS, ngram…; auto: the target in fewer bits, if none was trained."
        ),
    ] = "auto",
    prompts: Annotated[
        Path | None, typer.Option(help="JSON lines with `prompt` or `turns` instead of the three built in.")
    ] = None,
    modes: Annotated[str, typer.Option(help="Which to compare, with commas between.")] = ",".join(_SHOWN),
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 80,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Keep the most probable tokens up to this mass.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, prompt and target: same text.")] = 0,
    rtt_ms: Annotated[float, typer.Option(min=0, help="Round trip of the emulated network.")] = 20.0,
    jitter_ms: Annotated[float, typer.Option(min=0, help="By how much the round trip varies up and down.")] = 0.0,
    rate_mbps: Annotated[float, typer.Option(min=0, help="Megabits a second each way; 0 is unlimited.")] = 0.0,
    # What comes with foredraft is as large as its draft; the slowest arithmetic stands for a target that is not (docs/log.md).
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "float32",
    exits: Annotated[
        str | None, typer.Option(help="Layers that hint, such as 10,20; none unless these or --heads are named.")
    ] = None,
    heads: Annotated[Path | None, typer.Option(help="Trained heads of the exits; see `foredraft serve`.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write settings, figures and tokens there.")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write a trace of each mode into this folder, for `foredraft trace`, Perfetto.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only models that are on this machine.")] = False,
) -> None:
    """Watch a small model and a large one write one text together, and compare it with the large one alone."""
    settings = Settings(
        # No hints unless asked for: no heads made so far have saved a measurable time here (docs/log.md).
        pair=Pair(target, draft, dtype, "none" if exits is None and heads is None else exits, offline, heads),
        prompts=tuple(read_prompts(prompts)) if prompts else DEMONSTRATION,
        modes=_chosen_modes(modes),
        max_tokens=max_tokens,
        sampling=SamplingParams(temperature=temperature, top_p=top_p, seed=seed),
        link=LinkSettings(rtt_ms=rtt_ms, jitter_ms=jitter_ms, rate_mbps=rate_mbps),
    )
    if json_file is not None:
        check_writable(json_file)
    stop_on_termination()
    settings = dataclasses.replace(settings, pair=settings.pair.named())
    console = Console()
    with contextlib.ExitStack() as stack:
        traces = _open_traces(trace, settings, stack)
        stage = stack.enter_context(Stage(settings.pair))
        connected = stack.enter_context(stage.connected(settings.link, seed=seed))
        cores = stage.cores
        console.print(_introduction(settings, cores), highlight=False)
        answers = _run(connected.places[0], settings, traces, screen_for(console))
    console.print()
    console.print(table(answers, {name: MODES[name].label for name in answers}))
    console.print("Times in ms. Bytes both ways, the prompt included.", style="dim")
    if trace is not None:
        _export(trace, settings.modes)
        where = f"Traces are in {trace}: open the .json files at ui.perfetto.dev, or try `foredraft trace summary`."
        console.print(where, style="dim", soft_wrap=True, highlight=False, markup=False)
    if json_file is not None:
        write_atomically(json_file, as_json(answers, settings.as_json(cores)))
    difference = first_difference(answers)
    if difference is not None:
        console.print(
            f"[bold red]The modes wrote different tokens[/]: {difference.describe(stage.spell)}.", highlight=False
        )
        raise typer.Exit(1)
    count = sum(len(each.tokens) for each in next(iter(answers.values())))
    same = "All modes wrote identical tokens" if len(answers) > 1 else "One mode only, nothing to compare"
    console.print(f"[bold green]{same}[/]: {count} in {len(settings.prompts)} answers.", highlight=False)


def _chosen_modes(text: str) -> tuple[str, ...]:
    """The named modes, in our own order."""
    wanted = {part.strip() for part in text.split(",") if part.strip()}
    unknown = sorted(wanted - MODES.keys())
    if unknown or not wanted:
        said = f"there is no mode {unknown[0]!r}" if unknown else "no mode is named"
        raise UsageError(f"{said}; choose from {', '.join(MODES)}, with commas between.")
    return tuple(name for name in MODES if name in wanted)


# --- before


def _introduction(settings: Settings, cores: Cores) -> Text:
    network = f"{settings.link.rtt_ms:g} ms round trip"
    network += f" ± {settings.link.jitter_ms:g}" if settings.link.jitter_ms else ""
    network += f", {settings.link.rate_mbps:g} Mbit/s" if settings.link.rate_mbps else ""
    drawn = "greedy" if settings.sampling.greedy else f"temperature {settings.sampling.temperature:g}"
    if not settings.sampling.greedy:
        drawn += f", top-p {settings.sampling.top_p:g}, seed {settings.sampling.seed}"
    pair = settings.pair
    return Text.assemble(
        ("cloud    ", "dim"), (Path(pair.target).name, "bold"), f" in {pair.dtype}, {cores.describe('cloud')}\n",
        (f"         {_STAND_IN}\n" if pair.dtype == "float32" and drafts_for_itself(pair.draft, pair.target) else "", "dim"),
        ("edge     ", "dim"), (short_name(pair.draft), "bold"), f" drafts, {cores.describe('edge')}\n",
        ("network  ", "dim"), f"{network}\n",
        ("sampling ", "dim"), drawn,
    )  # fmt: skip


# --- the runs


def _run(place: Place, settings: Settings, traces: dict[str, TraceWriter], screen: Screen) -> dict[str, list[Answer]]:
    client = place.client
    prompts = encoded(client, settings.prompts, settings.max_tokens, "--max-tokens")
    with telling("warming up"):
        for name in settings.modes:
            MODES[name].answer(place, Task(client.encode(WARM_UP), settings.sampling, _WARM_UP_TOKENS))
    screen.legend()
    answers: dict[str, list[Answer]] = {name: [] for name in settings.modes}
    last = -1
    for index, name in schedule(len(prompts), settings.modes):
        if index != last:
            screen.prompt(index, len(prompts), settings.prompts[index])
            last = index
        given: Answer | None = None
        screen.begin(MODES[name])
        try:
            task = Task(prompts[index], settings.sampling, settings.max_tokens)
            given = MODES[name].answer(place, task, watcher=screen, trace=traces.get(name))
        finally:
            screen.end(given)
        answers[name].append(given)
    return answers


# --- traces


def _open_traces(folder: Path | None, settings: Settings, stack: contextlib.ExitStack) -> dict[str, TraceWriter]:
    if folder is None:
        return {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}; name another with --trace.") from None
    labels = {
        "target": settings.pair.target,
        "draft": settings.pair.draft,
        "dtype": settings.pair.dtype,
        "rtt_ms": f"{settings.link.rtt_ms:g}",
        "temperature": f"{settings.sampling.temperature:g}",
    }
    return {
        name: stack.enter_context(TraceWriter(folder / f"{name}.jsonl", {"mode": name, **labels}))
        for name in settings.modes
    }


def _export(folder: Path, modes: Sequence[str]) -> None:
    for name in modes:
        drawing = chrome_trace(read_trace(folder / f"{name}.jsonl"))
        (folder / f"{name}.json").write_text(json.dumps(drawing, ensure_ascii=False), encoding="utf-8")
