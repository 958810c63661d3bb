"""``foredraft train exits`` and ``calibrate``: heads for a target's exits, where to put them, and how sure they may be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from foredraft_cloud.training.commands import (
    Offline,
    TargetOption,
    Threads,
    check_artifact,
    chosen_device,
    chosen_dtype,
    command_line,
    layer_numbers,
    made_folder,
    said,
    terminating,
)
from foredraft_shared.errors import UsageError

if TYPE_CHECKING:
    from foredraft_cloud.training.calibrating import ExitsTrained

__all__ = ["calibrate", "exits"]


def exits(
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder made by `foredraft train collect`. Repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The artifact to write, FILE.safetensors; finished exits in it are kept.")
    ] = None,
    target: TargetOption = "smollm2-135m",
    layers: Annotated[str, typer.Option(help="Layers after which to hint, such as 10,15.")] = "10,15",
    head: Annotated[
        str, typer.Option(help="mlp: a feed-forward part; attention: the whole next layer, taught anew.")
    ] = "attention",
    vocabulary: Annotated[int, typer.Option(min=1, help="Tokens a head can say: the target's most frequent.")] = 6144,
    minutes: Annotated[float, typer.Option(min=0.01, help="How long to train each exit.")] = 20.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="Of the arithmetic: bfloat16, float32, or auto for the faster one here.")
    ] = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Positions of a step; more on a GPU.")] = 2048,
    rate: Annotated[float, typer.Option(min=0.0, help="Learning rate.")] = 2e-3,
    validation: Annotated[float, typer.Option(min=0.01, max=0.5, help="Share of prompts held out.")] = 0.08,
    look_every: Annotated[float, typer.Option(min=0.1, help="Minutes between looks at them.")] = 2.0,
    states: Annotated[
        Path | None,
        typer.Option(
            help="Folder for what the target's layers say of the texts, kept; else beside --out until the end."
        ),
    ] = None,
    threads: Threads = 1,
    where: Annotated[
        bool, typer.Option("--where", help="Train nothing: say where exits would help, for the times below.")
    ] = False,
    draft_ms: Annotated[float, typer.Option(min=0.0, help="With --where: drafting a token.")] = 5.0,
    verify_ms: Annotated[float, typer.Option(min=0.1, help="With --where: a pass of the target.")] = 25.0,
    rtt: Annotated[float, typer.Option(min=0.0, help="With --where: round trip in ms.")] = 20.0,
    acceptance: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="With --where: share of drafted tokens that stand.")
    ] = 0.7,
    offline: Offline = False,
) -> None:
    """Train heads that hint at the verdict from inside the pass. Ctrl-C keeps what was learnt so far."""
    if where:
        _where(out, target, offline, draft_ms, verify_ms, rtt, acceptance)
        return
    if not data or out is None:
        raise UsageError("give --data and --out; or --where to be told which layers are worth it.")
    check_artifact(out, "serve --heads")
    import torch

    from foredraft_cloud.training.exit_training import ExitOptions, train_exits
    from foredraft_cloud.training.fitting import FitOptions
    from foredraft_cloud.training.shards import read_texts
    from foredraft_cloud.training.texts import data_facts
    from foredraft_shared.models import open_model

    place = chosen_device(device)
    kind = chosen_dtype(dtype, device)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = open_model(target, offline=offline)
    texts = [text for folder in data for text in read_texts(folder, model)]
    options = ExitOptions(
        tuple(sorted(set(layer_numbers(layers)))),
        kind=head,
        vocabulary=vocabulary,
        validation=validation,
        fit=FitOptions(minutes, batch=batch, learning_rate=rate, total_variation=0.0, look_every_s=60 * look_every),
    )
    facts = {
        "command": command_line(),
        "device": device,
        "dtype": str(kind).removeprefix("torch."),
        "data": data_facts(texts),
    }
    screen = _Screen()
    try:
        with terminating(), screen.bar:
            train_exits(model, texts, out, options, facts, device=place, dtype=kind, folder=states, report=screen.told)
    except KeyboardInterrupt:
        screen.say("stopped; what was learnt so far is kept, and the same command goes on from here.")
    if out.exists():
        screen.say(f"{out}: use it with `foredraft serve --heads {out}`")


def calibrate(
    heads: Annotated[Path, typer.Option(help="Exit heads of `foredraft train exits`, which get a new calibration.")],
    data: Annotated[list[Path], typer.Option(help="Folder made by `foredraft train collect`. Repeatable.")],
    target: TargetOption = "smollm2-135m",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="Of the arithmetic: bfloat16, float32, or auto for the faster one here.")
    ] = "auto",
    threads: Threads = 1,
    offline: Offline = False,
) -> None:
    """Calibrate the hints of finished exit heads again, and train nothing. Ctrl-C leaves the file as it was."""
    if not heads.exists():
        raise UsageError(f"{heads}: no such file; train one with `foredraft train exits`.")
    made_folder(heads.parent)
    import torch

    from foredraft_cloud.training.calibrating import calibrate_exits
    from foredraft_cloud.training.shards import read_texts
    from foredraft_shared.models import open_model
    from foredraft_shared.models.artifacts import load_artifact

    place, kind = chosen_device(device), chosen_dtype(dtype, device)
    torch.set_num_threads(threads)
    artifact = load_artifact(heads, "exits")
    model = open_model(target, offline=offline)
    artifact.check(model)
    texts = [text for folder in data for text in read_texts(folder, model)]
    noted = {"command": command_line(), "device": device, "dtype": str(kind).removeprefix("torch.")}
    screen = _Screen()
    try:
        with terminating(), screen.bar:
            calibrate_exits(model, texts, artifact, noted, device=place, dtype=kind, report=screen.told)
    except KeyboardInterrupt:
        screen.say(f"stopped; {heads} is as it was.")
    else:
        screen.say(f"{heads}: calibrated again; use it with `foredraft serve --heads {heads}`")


class _Screen:
    """A bar for what is going on, and a line for what was found."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
        self.bar = Progress(*columns, TimeRemainingColumn(), console=self._console)
        self._task = self.bar.add_task("", total=1.0)
        self._doing = ""

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)

    def told(self, told: ExitsTrained) -> None:
        doing = {
            "states": "what the target's layers say of the texts",
            "start": "closed-form start",
            "calibrate": f"exit {told.layer}: rounds on held-out prompts",
        }.get(told.stage, f"exit {told.layer}")
        if doing != self._doing:
            self._doing = doing
            self.bar.reset(self._task, description=doing)
        self.bar.update(self._task, completed=min(told.done, 1.0))
        if told.stage == "kept":
            self.say(f"exit {told.layer}: finished by an earlier run, kept")
        elif told.stage == "looked":
            self.say(f"exit {told.layer} {told.done:4.0%}  {said(told.found)}")
        elif told.hints is not None:
            sure = ", ".join(
                f"{precision:.0%} of {coverage:.0%} from {least}"
                for least, precision, coverage in zip(
                    told.hints.at, told.hints.precision, told.hints.coverage, strict=True
                )
                if precision is not None
            )
            self.say(
                f"exit {told.layer}: {told.hints.right:.0%} of {told.hints.rounds} held-out rounds hinted right, "
                f"calibration error {told.hints.ece:.3f}; right by confidence: {sure}"
            )


def _where(
    out: Path | None, target: str, offline: bool, draft_ms: float, verify_ms: float, rtt: float, acceptance: float
) -> None:
    from foredraft_shared.models import open_model
    from foredraft_shared.models.artifacts import load_artifact, shipped

    from .exit_planning import ASSUMED, advise, measured_accuracy

    model = open_model(target, offline=offline)
    path = out if out is not None and out.exists() else shipped(model, "exits")
    accuracy = dict(ASSUMED)
    if path is not None:
        artifact = load_artifact(path, "exits")
        artifact.check(model)
        accuracy = measured_accuracy(artifact, model.config.layers)
    advice = advise(model.config.layers, draft_ms, verify_ms, rtt, acceptance, accuracy)
    table = Table("exit", "hints", "of them right", "ms/token", "gain", box=None, pad_edge=False)
    for row in advice.rows:
        name = "none" if row.layer is None else str(row.layer)
        hinted = (f"{row.coverage:.0%}", f"{row.accuracy:.0%}") if row.layer else ("", "")
        table.add_row(name, *hinted, f"{row.ms_per_token:.2f}", f"{row.gain:+.1%}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"Simulated, by how often a hint is right {'in ' + path.name if path else 'as measured elsewhere'}.",
        style="dim",
    )
    if advice.best:
        console.print(f"Recommended: --layers {','.join(map(str, advice.best))}")
    else:
        console.print("Recommended: no exits; for these times none gains what its head costs.")
