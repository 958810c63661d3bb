"""``foredraft bench drafters``: what a drafted token costs, by backend and precision, and how far precision moves it.

All drafters are loaded first and take turns, a few tokens each, so that whatever else the machine does falls on all of
them alike; the median of their steps is reported. Agreement is measured on the float32 drafter's own greedy answers:
the share of positions where the other's first choice is the same, given the same text before.
"""

from __future__ import annotations

import tempfile
import time
from collections import ChainMap
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from foredraft_edge.drafters import follow
from foredraft_edge.drafters.export import ExportOptions, export_onnx, exported
from foredraft_edge.drafters.kept import DraftWeights, first_layers
from foredraft_edge.drafters.onnx import OnnxDrafter
from foredraft_edge.drafters.text import CachedText
from foredraft_shared.errors import BackendMissing, ForedraftError
from foredraft_shared.kernels.library import possible
from foredraft_shared.messages import SamplingParams, TokenId
from foredraft_shared.models import Model, open_model

from .report import check_writable, write_atomically

__all__ = ["Measured", "drafters", "measure_drafters"]

PROMPTS = (
    "What is the capital of France? Tell me about it.",
    "Write a Python function that adds up the even numbers of a list.",
    "Explain in three sentences why the sky is blue.",
    "Give me a recipe for a simple tomato soup.",
)
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=1)
_TURN = 8
"""Tokens a drafter writes before it is the next one's turn."""


@dataclass(slots=True)
class Measured:
    """One drafter's figures."""

    name: str
    load_s: float
    """The export included where it was not in the cache."""
    prefill_ms: float = 0.0
    """Reading a prompt of :attr:`prefill_tokens`."""
    prefill_tokens: int = 0
    greedy_ms: float = 0.0
    """Median of a step, the pick included."""
    least_ms: float = 0.0
    """The fastest greedy step: what the step costs on a machine that does nothing else."""
    sampled_ms: float = 0.0
    """The median at temperature 0.8, top-p 0.95."""
    agreement: float | None = None
    """Share of positions with the float32 drafter's first choice; ``None`` for one of another kind."""
    positions: int = 0
    note: str = ""
    greedy_steps: list[float] = field(default_factory=list)
    sampled_steps: list[float] = field(default_factory=list)


def measure_drafters(
    model: Model, *, first: int = 3, head: int = 8192, tokens: int = 64, threads: int = 1, torch: bool = True
) -> list[Measured]:
    """Time every backend that is installed on ``model``, on its first layers, and on these with a small head.

    The compiled kernels once for each set of instructions of this processor.

    Args:
        first: how many layers the shallow ones have.
        head: rows of the small head (the lowest ids: which ones does not matter to the time).
        tokens: written per drafter, prompt and kind of sampling.
        threads: cores a step may use.
        torch: include the torch drafter, which is slow in float32.
    """
    with tempfile.TemporaryDirectory() as folder:
        makers = _makers(model, first, head, threads, Path(folder), torch)
        loaded: list[tuple[Measured, CachedText | None]] = []
        for name, make in makers.items():
            began = time.perf_counter()
            try:
                drafter = make()
            except ForedraftError as error:
                loaded.append((Measured(name, 0.0, note=str(error)), None))
                continue
            loaded.append((Measured(name, time.perf_counter() - began), drafter))
        running = [(measured, drafter) for measured, drafter in loaded if drafter is not None]
        texts = [model.tokenizer.encode(model.tokenizer.chat([{"role": "user", "content": text}])) for text in PROMPTS]
        for prompt in texts:
            _take_turns(running, prompt, tokens)
        for measured, _ in running:
            measured.greedy_ms = median(measured.greedy_steps) * 1e3
            measured.least_ms = min(measured.greedy_steps) * 1e3
            measured.sampled_ms = median(measured.sampled_steps) * 1e3
        for reference, kinds in (("full onnx float32", "full "), (f"first {first} onnx float32", f"first {first} ")):
            _compare(reference, [each for each in running if each[0].name.startswith(kinds)], texts, tokens)
        for _, drafter in running:
            drafter.close()
    return [measured for measured, _ in loaded]


def _makers(
    model: Model, first: int, head: int, threads: int, folder: Path, torch: bool
) -> dict[str, Callable[[], CachedText]]:
    def onnx(layers: int | None, precision: str) -> CachedText:
        return OnnxDrafter(exported(first_layers(model, layers), ExportOptions(precision=precision)), threads=threads)

    def small_head(precision: str) -> CachedText:
        rows = model.weights["embedding.weight" if model.config.tied else "head.weight"][:head]
        config = first_layers(model, first).config
        part: dict[str, Any] = {"head.weight": rows, "head.tokens": np.arange(len(rows), dtype=np.int32)}
        options = ExportOptions(precision=precision)
        path = folder / f"small-head-{precision}.onnx"
        return OnnxDrafter(export_onnx(config, ChainMap(part, model.weights), path, options), threads=threads)  # type: ignore[arg-type]

    def llama() -> CachedText:
        from foredraft_edge.drafters.llama import LlamaDrafter

        return LlamaDrafter(model.path, threads=threads, context=2048)

    def torch_(layers: int | None, dtype: str) -> CachedText:
        from foredraft_edge.drafters.torch import TorchDrafter

        return TorchDrafter(model.config, model.weights, layers=layers, dtype=dtype, threads=threads)

    def compiled(draft: DraftWeights, instructions: str | None = None) -> CachedText:
        from foredraft_edge.drafters.loading import in_kernels

        return in_kernels(draft, threads, instructions)

    makers: dict[str, Callable[[], CachedText]] = {}
    for depth, layers in (("full", None), (f"first {first}", first)):
        makers[f"{depth} compiled"] = lambda layers=layers: compiled(first_layers(model, layers))  # type: ignore[misc]
        for precision in ("float32", "int8", "int4"):
            makers[f"{depth} onnx {precision}"] = lambda layers=layers, precision=precision: onnx(layers, precision)  # type: ignore[misc]
        if torch:
            makers[f"{depth} torch bfloat16"] = lambda layers=layers: torch_(layers, "bfloat16")  # type: ignore[misc]
    for instructions in possible()[1:]:
        makers[f"full compiled {instructions}"] = lambda instructions=instructions: compiled(  # type: ignore[misc]
            first_layers(model), instructions
        )
    makers[f"full llama.cpp {model.weights.quantisation}"] = llama
    for precision in ("int8", "int4"):
        makers[f"small head, {first} layers, onnx {precision}"] = lambda precision=precision: small_head(precision)  # type: ignore[misc]
    return makers


def _take_turns(running: list[tuple[Measured, CachedText]], prompt: tuple[TokenId, ...], tokens: int) -> None:
    for params in (GREEDY, SAMPLED):
        for measured, drafter in running:
            drafter.begin(prompt)
            began = time.perf_counter()
            next(drafter.draft(1, params))
            measured.prefill_ms = (time.perf_counter() - began) * 1e3
            measured.prefill_tokens = len(prompt)
        for _ in range(0, tokens, _TURN):
            for measured, drafter in running:
                steps = measured.greedy_steps if params.greedy else measured.sampled_steps
                began = time.perf_counter()
                for _ in drafter.draft(_TURN, params):
                    now = time.perf_counter()
                    steps.append(now - began)
                    began = now


def _compare(
    reference: str, running: list[tuple[Measured, CachedText]], prompts: list[tuple[TokenId, ...]], tokens: int
) -> None:
    """Fill in :attr:`Measured.agreement` of ``running`` against the one named ``reference``."""
    judge = next((drafter for measured, drafter in running if measured.name == reference), None)
    if judge is None:
        raise BackendMissing("The comparison needs onnxruntime and onnx: pip install 'foredraft[edge]'.")
    agreed = dict.fromkeys((measured.name for measured, _ in running), 0)
    positions = 0
    for prompt in prompts:
        judge.begin(prompt)
        truth = [*prompt, *(proposal.token for proposal in judge.draft(tokens, GREEDY))]
        positions += len(truth) - len(prompt)
        for measured, drafter in running:
            for position in range(len(prompt), len(truth)):
                follow(drafter, truth[:position])
                agreed[measured.name] += next(drafter.draft(1, GREEDY)).token == truth[position]
    for measured, _ in running:
        measured.agreement, measured.positions = agreed[measured.name] / positions, positions


def drafters(
    model: Annotated[
        str, typer.Option(help="The model to draft with: a name, a folder or a GGUF file.")
    ] = "smollm2-135m",
    first: Annotated[int, typer.Option(min=1, help="Layers of the shallow drafts.")] = 3,
    head: Annotated[int, typer.Option(min=1, help="Rows of the small head.")] = 8192,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens per drafter, prompt and kind of sampling.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Cores a step may use.")] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there too.")
    ] = None,
) -> None:
    """Time the drafters, backend by backend. Pin it to one core for steady figures: `taskset -c 0 foredraft bench …`."""
    if json_file is not None:
        check_writable(json_file)
    results = measure_drafters(open_model(model), first=first, head=head, tokens=tokens, threads=threads)
    table = Table(title=model)
    table.add_column("drafter", no_wrap=True)
    for heading in ("load s", "prompt ms", "greedy ms", "least ms", "sampled ms", "agrees with float32"):
        table.add_column(heading)
    for each in results:
        if each.note:
            table.add_row(each.name, *["–"] * 5, each.note)
            continue
        agreement = "" if each.agreement is None else f"{each.agreement:.1%} of {each.positions}"
        figures = (each.load_s, each.prefill_ms, each.greedy_ms, each.least_ms, each.sampled_ms)
        table.add_row(
            each.name, *(f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}" for figure in figures), agreement
        )
    Console().print(table)
    if json_file is not None:
        rows = [{key: value for key, value in asdict(each).items() if not key.endswith("_steps")} for each in results]
        write_atomically(json_file, {"model": model, "threads": threads, "drafters": rows})
