"""``foredraft train``: a draft and exit heads for any target, on this machine."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foredraft_shared.errors import UsageError

from ..arithmetic import DTYPE_HELP

if TYPE_CHECKING:
    import torch

    from .fitting import Progress

__all__ = [
    "Offline",
    "TargetOption",
    "Threads",
    "check_artifact",
    "chosen_device",
    "chosen_dtype",
    "command_line",
    "layer_numbers",
    "made_folder",
    "said",
    "terminating",
    "train",
]

train = typer.Typer(
    help="Make a draft and exit heads for a target: collect its answers, train, evaluate.", no_args_is_help=True
)

TargetOption = Annotated[str, typer.Option(help="Name, folder, hub id or GGUF file of the target.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use only models that are on this machine.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the model's arithmetic.")]


@train.command("collect")
def collect_command(
    prompts: Annotated[Path, typer.Option(help="JSON lines with prompt, question or turns.")],
    out: Annotated[Path, typer.Option(help="Folder of the answers; an earlier run in it is continued.")],
    target: TargetOption = "smollm2-135m",
    tokens: Annotated[int, typer.Option(min=1, help="Answered tokens wanted in the folder.")] = 300_000,
    never: Annotated[
        list[Path] | None,
        typer.Option(help="JSON lines whose prompts must not be asked: what you measure by. Repeatable."),
    ] = None,
    invented: Annotated[
        float, typer.Option(min=0.0, max=0.95, help="Share of questions that the target makes up itself.")
    ] = 0.5,
    openings: Annotated[
        Path | None,
        typer.Option(help="How half of these begin, one a line; by default many kinds of English questions."),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Texts written at a time.")] = 64,
    answer: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 256,
    longest: Annotated[int, typer.Option(min=1, help="Longest prompt in tokens; longer ones are passed over.")] = 300,
    shard: Annotated[int, typer.Option(min=1, help="Answered tokens of a file.")] = 20_000,
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "bfloat16",
    threads: Threads = 1,
    seed: Annotated[int, typer.Option(help="Of the choice of prompts and of the noise.")] = 0,
    offline: Offline = False,
) -> None:
    """Let the target answer prompts, and keep what it says and nearly says. Ctrl-C keeps what is finished."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from foredraft_shared.models import open_model

    from ..decoder import load_target
    from .collecting import QUICK_ATTENTION, CollectOptions, collect
    from .openings import OPENINGS, read_openings
    from .prompts import Prompts, excluded_hashes, prompt_hash, read_prompts
    from .shards import Shards

    questions, excluded = read_prompts(prompts), excluded_hashes(never or [])
    begun = OPENINGS if openings is None else read_openings(openings)
    if excluded.issuperset(map(prompt_hash, questions)):
        raise UsageError(f"every prompt in {prompts} stands in a file named by --never; give other prompts.")
    made_folder(out)
    model = open_model(target, offline=offline)
    shards = Shards(out, model, shard, dtype=dtype)
    asked = Prompts(
        model.tokenizer,
        questions,
        never=excluded,
        done=shards.done,
        longest=longest,
        invented=invented,
        openings=begun,
        seed=seed,
    )
    console = Console(stderr=True)
    note = f"{len(questions)} prompts, {asked.refused} refused by --never, {asked.skipped} answered before"
    console.print(note, highlight=False, soft_wrap=True)
    # Room for what was just said, too: its twin, its next turn, or the answer to what it asks begins with it.
    decoder = load_target(model, dtype=dtype, context=longest + answer, slots=slots * 3 // 2, threads=threads)
    decoder.attention = QUICK_ATTENTION
    options = CollectOptions(tokens, slots=slots, answer=answer)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens, {task.fields[rate]:.0f} /s"),
        TimeRemainingColumn(),
    )
    began, before = time.monotonic(), shards.answered
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("collect", total=tokens, completed=before, rate=0.0)

        def report(made: int) -> None:
            rate = (made - before) / max(time.monotonic() - began, 1e-9)
            bar.update(task, completed=min(made, tokens), rate=rate)

        try:
            with terminating():
                collect(decoder, model.tokenizer, asked, shards, options, report)
        except KeyboardInterrupt:
            console.print("stopped; the same command goes on from here.", highlight=False, soft_wrap=True)
    console.print(f"{shards.answered} answered tokens in {out}", soft_wrap=True, highlight=False)


@train.command("draft")
def draft_command(
    data: Annotated[list[Path], typer.Option(help="Folder made by `foredraft train collect`. Repeatable.")],
    out: Annotated[
        Path, typer.Option(help="The artifact to write, FILE.safetensors; use it as draft:FILE.safetensors.")
    ],
    target: TargetOption = "smollm2-135m",
    earlier: Annotated[
        Path | None,
        typer.Option("--from", help="Go on from this draft, with its layers and head, in place of the target's own."),
    ] = None,
    layers: Annotated[
        str, typer.Option(help="Layers of the target (from 0) that the trained ones begin as.")
    ] = "9,10,11",
    frozen: Annotated[int, typer.Option(min=0, help="First layers of the target taken as they are, below those.")] = 9,
    vocabulary: Annotated[
        int, typer.Option(min=1, help="Tokens the draft can say: the target's most frequent.")
    ] = 8192,
    minutes: Annotated[float, typer.Option(min=0.01, help="How long to train, once the data is read.")] = 30.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="Of the arithmetic: bfloat16, float32, or auto for the faster one here.")
    ] = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Positions of a step; more on a GPU.")] = 2048,
    rate: Annotated[float, typer.Option(min=0.0, help="Learning rate.")] = 1e-3,
    total_variation: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Its share of the loss in the last quarter; the rest is KL.")
    ] = 0.5,
    validation: Annotated[float, typer.Option(min=0.0, max=0.5, help="Share of prompts held out.")] = 0.03,
    look_every: Annotated[float, typer.Option(min=0.1, help="Minutes between looks at them; each writes --out.")] = 2.0,
    threads: Threads = 1,
    offline: Offline = False,
) -> None:
    """Train a shallow draft on collected answers. Ctrl-C leaves what was learnt so far, ready to use."""
    import torch

    from foredraft_shared.models import open_model
    from foredraft_shared.models.artifacts import (
        PROMPTS,
        load_artifact,
        prompt_hashes,
        prompts_tensor,
        save_artifact,
    )

    from .drafts import DraftModel, begun_as
    from .fitting import FitOptions, acceptance, fit, rounded
    from .shards import read_texts
    from .texts import data_facts, split_by_prompt, sub_vocabulary

    check_artifact(out, f"draft:{out.stem}.safetensors")
    where, kind = chosen_device(device), chosen_dtype(dtype, device)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = open_model(target, offline=offline)
    collected = [text for folder in data for text in read_texts(folder, model)]
    texts, held_out = split_by_prompt(collected, validation)
    if not texts:
        raise UsageError(f"{data[0]} holds no text to train on; collect more, or lower --validation.")
    began = time.monotonic()
    asked = {text.key for text in [*texts, *held_out]}
    copied = layer_numbers(layers)
    before_that = None if earlier is None else load_artifact(earlier, "draft")
    if before_that is None:
        stop = model.tokenizer.stop_tokens
        tokens = sub_vocabulary(texts, model.config.vocabulary, min(vocabulary, model.config.vocabulary), stop)
    else:
        before_that.check(model)
        frozen, copied, tokens = begun_as(before_that, model.config)
        asked |= prompt_hashes(before_that)
    draft = DraftModel(
        model,
        frozen=frozen,
        layers=copied,
        tokens=tokens,
        device=where,
        dtype=kind,
        context=max(len(text.tokens) for text in [*texts, *held_out]),
    )
    console = Console(stderr=True)
    explained = None
    if before_that is None:
        explained = draft.fit_head(texts)
    else:
        draft.go_on_from(before_that)
    before = acceptance(draft, held_out, limit=80)
    answered = sum(text.answered for text in texts)
    console.print(
        f"{len(texts)} texts, {answered} answered tokens; before: {said(before)}", highlight=False, soft_wrap=True
    )
    curve: list[dict[str, Any]] = []

    def save(**more: object) -> None:
        facts = {
            "layers": frozen + draft.trained,
            "trained_layers": list(range(frozen, frozen + draft.trained)),
            "began_as": copied,
            "head": len(tokens),
            "command": command_line(),
            "device": device,
            "data": data_facts(texts),
            "head_explains": explained,
            "earlier": None if before_that is None else before_that.facts,
            "untrained": _facts(before),
            "curve": curve,
            "seconds": time.monotonic() - began,
            **more,
        }
        arrays = draft.arrays() | {PROMPTS: prompts_tensor(asked)}
        save_artifact(
            out,
            "draft",
            model,
            arrays,
            {name: rounded(value) for name, value in facts.items()},
            four_bits=draft.four_bits,
        )

    def report(progress: Progress) -> None:
        if progress.acceptance is None:
            return
        curve.append(progress.facts())
        save()
        console.print(
            f"{progress.done:4.0%}  step {progress.step}  loss {progress.loss:.3f}  overlap {progress.overlap:.3f}  "
            f"{said(progress.acceptance)}",
            highlight=False,
        )

    save()
    options = FitOptions(
        minutes, batch=batch, learning_rate=rate, total_variation=total_variation, look_every_s=60 * look_every
    )
    try:
        with terminating():
            last = fit(draft, texts, held_out, options, report)
        curve.append(last.facts())
    except KeyboardInterrupt:
        console.print("stopped; what was learnt so far is kept.", highlight=False, soft_wrap=True)
        draft.refresh(stored=True)
    after = acceptance(draft, held_out)
    save(validation=_facts(after))
    console.print(f"{said(after)}\n{out}: use it with --draft draft:{out} ", soft_wrap=True, highlight=False)


def command_line() -> str:
    """What this process was called with, for an artifact's card."""
    return shlex.join(["foredraft", *sys.argv[1:]])


def check_artifact(out: Path, user: str) -> None:
    """Complain now rather than after the work.

    Args:
        user: what is to find the artifact.

    Raises:
        UsageError: it has the wrong ending, or could not be written there.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"--out is {out.name}; call it {out.stem}.safetensors, so that {user} finds it.")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; name a file in it.")
    made_folder(out.parent)


def made_folder(folder: Path) -> None:
    """Make sure of a folder to write into.

    Raises:
        UsageError: there is none, and it cannot be made, or nothing may be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder} ({error.strerror}); name another.") from None
    if not os.access(folder, os.W_OK):
        raise UsageError(f"you may not write into {folder}; name another folder.")


@contextmanager
def terminating() -> Iterator[None]:
    """Take a request to terminate for a Ctrl-C: a long run on a server is more often ended so.

    Only the first one counts: ``timeout`` sends two, and the second would end what saves the work.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def layer_numbers(text: str) -> list[int]:
    """The numbers in ``9,10,11``."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"layers are {text!r}; give layer numbers with commas between, such as 9,10,11.") from None


def chosen_device(name: str) -> torch.device:
    """The device of that name, if there is one."""
    import torch

    if name not in ("cpu", "cuda"):
        raise UsageError(f"device is {name!r}; choose cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("this torch sees no CUDA device; install a CUDA build of torch, or use --device cpu.")
    return torch.device(name)


def chosen_dtype(name: str, device: str = "cpu") -> torch.dtype:
    """The dtype of that name; ``auto``: bfloat16 where ``device`` has instructions for it."""
    import torch

    kinds = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if name == "auto":
        quick = device == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        return kinds["bfloat16" if quick else "float32"]
    if name not in kinds:
        raise UsageError(f"dtype is {name!r}; choose {', '.join(kinds)} or auto.")
    return kinds[name]


def _facts(found: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(found)


def said(found: Any) -> str:
    """An :class:`~foredraft_cloud.training.fitting.Acceptance` in words."""

    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    return (
        f"held-out prompts: greedy {share(found.greedy)}, sampled {share(found.sampled)}, coverage {found.coverage:.3f}"
    )
