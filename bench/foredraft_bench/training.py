"""Make a draft and exit heads for a target: collect its answers, train, evaluate.

Collecting and training a draft are the cloud's (:mod:`foredraft_cloud.training.commands`); what runs the device's side, too,
is here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from foredraft_cloud.arithmetic import DTYPE_HELP
from foredraft_cloud.training.commands import Offline, TargetOption, layer_numbers, made_folder, train
from foredraft_shared.errors import UsageError

from .exit_commands import calibrate, exits

__all__ = ["evaluate", "export", "train"]

train.command("exits")(exits)
train.command("calibrate")(calibrate)


@train.command("export")
def export(
    draft: Annotated[Path, typer.Argument(help="The artifact of a trained draft, FILE.safetensors.")],
    out: Annotated[Path, typer.Option(help="The GGUF file to write, for llama.cpp; use it as llama:FILE.gguf.")],
    target: TargetOption = "smollm2-135m",
    offline: Offline = False,
) -> None:
    """Write a trained draft as a GGUF file, with the target's embedding and tokenizer in it."""
    from foredraft_shared.models import open_model
    from foredraft_shared.models.artifacts import load_artifact
    from foredraft_shared.models.gguf_export import export_gguf

    if not draft.exists():
        raise UsageError(f"{draft}: no such file; train one with `foredraft train draft`.")
    path = export_gguf(open_model(target, offline=offline), load_artifact(draft, "draft"), out)
    Console(highlight=False, soft_wrap=True).print(f"{path}: {path.stat().st_size / 1e6:.0f} MB")


@train.command("evaluate")
def evaluate(
    draft: Annotated[
        str, typer.Option(help="What to evaluate: draft:FILE.safetensors, first:6, ngram, another model…")
    ],
    prompts: Annotated[
        Path, typer.Option(help="JSON lines with prompt or turns: prompts the draft was not trained on.")
    ],
    target: TargetOption = "smollm2-135m",
    exit_layers: Annotated[
        str | None,
        typer.Option("--exits", help="Layers whose hints to judge, or 'none'; by default those with a trained head."),
    ] = None,
    heads: Annotated[
        Path | None, typer.Option(help="Exit heads of `foredraft train exits`; else those that come with the target.")
    ] = None,
    drafted: Annotated[int, typer.Option(min=1, max=32, help="Tokens of the rounds that hints are judged in.")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many prompts, spread over the file.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 64,
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "bfloat16",
    threads: Annotated[int, typer.Option(min=1, help="Threads of each side's arithmetic.")] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there too.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write report.md there, and plots if matplotlib is installed.")
    ] = None,
    offline: Offline = False,
) -> None:
    """Measure how well a draft, and the exits, foresee their target, and at what cost."""
    from foredraft_shared.models import open_model
    from foredraft_shared.models.artifacts import load_artifact, shipped

    from .evaluation import categories_of, evaluate_draft
    from .evaluation_report import lines, write_report
    from .prompts import read_prompts
    from .report import check_writable, write_atomically

    if json_file is not None:
        check_writable(json_file)
    if report is not None:
        made_folder(report)
    questions = read_prompts(prompts)
    categories = categories_of(prompts)
    if limit is not None and limit < len(questions):
        chosen = [index * len(questions) // limit for index in range(limit)]
        questions, categories = [questions[index] for index in chosen], [categories[index] for index in chosen]
    model = open_model(target, offline=offline)
    layers = None if exit_layers is None else [] if exit_layers == "none" else layer_numbers(exit_layers)
    if heads is not None and not heads.exists():
        raise UsageError(f"{heads}: no such file; train one with `foredraft train exits`.")
    path = None if layers == [] else heads or shipped(model, "exits")
    artifact = None if path is None else load_artifact(path, "exits")
    if artifact is not None:
        artifact.check(model)
    result = evaluate_draft(
        model,
        draft,
        questions,
        tokens=tokens,
        dtype=dtype,
        threads=threads,
        categories=categories,
        exits=layers,
        heads=artifact,
        drafted=drafted,
    )
    if json_file is not None:
        write_atomically(json_file, result)
    console = Console(highlight=False, soft_wrap=True)
    for line in lines(result):
        console.print(line)
    if report is not None:
        console.print(f"{write_report(result, report)}")
