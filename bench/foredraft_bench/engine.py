"""``foredraft bench engine``: what a pass of the target costs, beside transformers on the same weights.

For each number of threads both are loaded, and then take turns, a pass each, so that whatever else the machine does
falls on all alike. A pass continues a text whose keys are cached, scores every row, and is then taken back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from foredraft_cloud.arithmetic import DTYPE_HELP
from foredraft_shared.models import Model, open_model

from .report import check_writable, write_atomically
from .room import check_room
from .together import measure_together

__all__ = ["Timed", "engine", "measure_engine"]


_ROWS = (1, 8, 9)


@dataclass(frozen=True, slots=True)
class Timed:
    """One kind of pass."""

    name: str
    threads: int
    rows: int
    median_ms: float
    least_ms: float
    cpu_ms: float
    """Least processor time of all threads: what is left of the truth on a machine that others use too."""


def measure_engine(
    model: Model, *, threads: int, dtype: str = "bfloat16", cached: int = 128, turns: int = 30, compare: bool = True
) -> list[Timed]:
    """Time passes of 1, 8 and 9 rows in our decoder, and of 1 and 8 in transformers.

    Args:
        cached: tokens before the pass.
        turns: passes of each kind; the first three are not counted.
        compare: include transformers.

    Raises:
        UsageError: so many tokens do not fit into the model's context, or into the memory that the cache may take.
    """
    import torch

    from foredraft_cloud.decoder import load_target
    from foredraft_cloud.target import Run

    most = max(_ROWS)
    check_room(cached, most, model.config.context)
    target = load_target(model, dtype=dtype, threads=threads, context=max(cached + most, 1024), slots=8)
    check_room(cached, most, target.context)
    prompt = tuple(token % model.config.vocabulary for token in range(1, cached + 1))
    slots = [target.open() for _ in range(8)]
    for slot in slots:
        target.verify([Run(slot, prompt, 0)], exits=False).step()

    def ours(rows: int) -> Callable[[], object]:
        def run() -> object:
            view = target.verify([Run(slots[0], prompt[:rows], rows)], exits=False).step()
            target.keep(slots[0], cached)
            return view

        return run

    def sessions() -> object:
        view = target.verify([Run(slot, prompt[:1], 1) for slot in slots], exits=False).step()
        for slot in slots:
            target.keep(slot, cached)
        return view

    kinds: list[tuple[str, int, Callable[[], object]]] = [("foredraft", rows, ours(rows)) for rows in _ROWS]
    kinds.append(("foredraft, 8 sessions", 8, sessions))
    if compare:
        from .in_transformers import in_transformers

        theirs = in_transformers(model, torch.float32 if dtype == "float32" else torch.bfloat16)
        with torch.inference_mode():
            cache = theirs(torch.tensor([prompt]), use_cache=True).past_key_values

        def eager(rows: int) -> Callable[[], object]:
            tokens = torch.tensor([prompt[:rows]])

            @torch.inference_mode()
            def run() -> object:
                result = theirs(tokens, past_key_values=cache, use_cache=True).logits
                cache.crop(-rows)
                return result

            return run

        kinds += [("transformers", rows, eager(rows)) for rows in (1, 8)]
    seconds: list[list[float]] = [[] for _ in kinds]
    processor: list[list[float]] = [[] for _ in kinds]
    for _ in range(turns + 3):
        for (_, _, run), into, used in zip(kinds, seconds, processor, strict=True):
            began, began_cpu = time.perf_counter(), time.process_time()
            run()
            into.append(time.perf_counter() - began)
            used.append(time.process_time() - began_cpu)
    return [
        Timed(name, threads, rows, median(each[3:]) * 1e3, min(each[3:]) * 1e3, min(used[3:]) * 1e3)
        for (name, rows, _), each, used in zip(kinds, seconds, processor, strict=True)
    ]


def engine(
    model: Annotated[str, typer.Option(help="The model: a name, a folder or a GGUF file.")] = "smollm2-135m",
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "bfloat16",
    threads: Annotated[list[int] | None, typer.Option(min=1, help="May be repeated; by default 1 and 2.")] = None,
    cached: Annotated[int, typer.Option(min=16, help="Tokens before the pass.")] = 128,
    turns: Annotated[int, typer.Option(min=1, help="Passes of each kind.")] = 30,
    compare: Annotated[bool, typer.Option(help="Include transformers.")] = True,
    sessions: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Time passes that serve so many sessions instead; may be repeated, beside one session."
        ),
    ] = None,
    floor: Annotated[
        bool,
        typer.Option(
            "--floor",
            help="Time passes of 1, 4, 8 and 16 rows in bfloat16 and W8A8 beside the time it takes to read their weights "
            "instead, in every set of instructions that there is for them (or the one in FOREDRAFT_KERNELS); --model "
            "random:qwen2-1.5b has random weights in that shape, and needs no download.",
        ),
    ] = False,
    in_torch: Annotated[
        bool, typer.Option("--torch", help="With --floor: time the passes without compiled kernels as well, in turns.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there too.")
    ] = None,
) -> None:
    """Time the target's passes beside transformers, or in W8A8 beside bfloat16, or passes that serve many sessions."""
    if json_file is not None:
        check_writable(json_file)
    if floor:
        _floor(model, threads or [1], cached, turns, in_torch, json_file)
        return
    opened = open_model(model)
    if sessions:
        _together(opened, sessions, threads or [1], dtype, cached, turns, json_file)
        return
    results: list[Timed] = []
    for count in threads or [1, 2]:
        timed = measure_engine(opened, threads=count, dtype=dtype, cached=cached, turns=turns, compare=compare)
        results += timed
        table = Table(
            "pass",
            "rows",
            "median ms",
            "least ms",
            "cpu ms",
            "of ours, 1 row",
            title=f"{model} {dtype}, {count} threads",
        )
        for each in timed:
            share = each.median_ms / timed[0].median_ms
            table.add_row(
                each.name,
                str(each.rows),
                f"{each.median_ms:.1f}",
                f"{each.least_ms:.1f}",
                f"{each.cpu_ms:.1f}",
                f"{share:.2f}",
            )
        Console().print(table)
    if json_file is not None:
        figures = {"model": model, "dtype": dtype, "cached": cached, "passes": [asdict(each) for each in results]}
        write_atomically(json_file, figures)


def _floor(model: str, threads: list[int], cached: int, turns: int, in_torch: bool, json_file: Path | None) -> None:
    from .floor import RANDOM, RandomModel, measure_floor

    opened = RandomModel() if model == RANDOM else open_model(model)
    figures: list[dict[str, object]] = []
    for count in threads:
        timed = measure_floor(opened, threads=count, cached=cached, turns=turns, in_torch=in_torch)
        title = (
            f"{model}, {count} threads; reading {timed[0].read_gib_per_s:.1f} GiB/s, "
            f"copying {timed[0].copy_gib_per_s:.1f} GiB/s"
        )
        columns = ["kernels", "dtype", "rows", "median ms", "of bfloat16", "floor ms", "over the floor"]
        table = Table(*columns, *(["of torch"] if in_torch else []), title=title)
        for each in timed:
            table.add_row(
                each.kernels,
                each.dtype,
                str(each.rows),
                f"{each.median_ms:.1f}",
                f"{each.of_bfloat16:.2f}",
                f"{each.floor_ms:.1f}",
                f"{each.over_floor:.2f}x",
                *([f"{each.of_torch:.2f}"] if in_torch and each.of_torch is not None else []),
            )
        Console().print(table)
        figures += [{"threads": count, **asdict(each)} for each in timed]
    if json_file is not None:
        write_atomically(json_file, {"model": model, "cached": cached, "passes": figures})


def _together(
    model: Model, sessions: list[int], threads: list[int], dtype: str, cached: int, turns: int, json_file: Path | None
) -> None:
    figures: list[dict[str, object]] = []
    for count in threads:
        timed = measure_together(model, sessions, threads=count, dtype=dtype, cached=cached, turns=turns)
        table = Table(
            "sessions",
            "drafted",
            "median ms",
            "cpu ms",
            "latency",
            "throughput",
            "outside the model",
            title=f"{model.name} {dtype}, {count} threads",
        )
        for each in timed:
            table.add_row(
                str(each.sessions),
                str(each.drafted),
                f"{each.median_ms:.1f}",
                f"{each.cpu_ms:.1f}",
                f"{each.latency:.2f}x",
                f"{each.throughput:.2f}x",
                f"{each.outside:.1%}",
            )
        Console().print(table)
        figures += [{"threads": count, **asdict(each)} for each in timed]
    if json_file is not None:
        write_atomically(json_file, {"dtype": dtype, "cached": cached, "passes": figures})
