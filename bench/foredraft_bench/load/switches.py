"""``foredraft bench switches``: what chaining rounds and dropping rows at exits bring, each off and on in turns, in one run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console

from foredraft_cloud.arithmetic import DTYPE_HELP
from foredraft_shared.errors import UsageError
from foredraft_shared.models import open_model
from foredraft_shared.version import version

from ..processes import Cores, choose_cores, pin, stop_on_termination
from ..report import check_writable, write_atomically
from .device import Habits
from .pattern import independent
from .rows import Row, learn, measure
from .setting import Setting, counts_from, known_texts, machine, serving

__all__ = ["Compared", "in_turns", "switches"]

SWITCHES = ("chaining", "dropping")


@dataclass(frozen=True, slots=True)
class Compared:
    """One switch at one load."""

    switch: str
    sessions: int
    rtt_ms: float
    off: tuple[Row, ...]
    on: tuple[Row, ...]
    """Those of the same turn stand at the same place."""

    @property
    def ratio(self) -> float:
        """Of the medians of tokens per second, on to off."""
        return median(row.tokens_per_second for row in self.on) / median(row.tokens_per_second for row in self.off)

    @property
    def spread(self) -> tuple[float, float]:
        """Lowest and highest ratio of a turn."""
        ratios = [on.tokens_per_second / off.tokens_per_second for on, off in zip(self.on, self.off, strict=True)]
        return min(ratios), max(ratios)

    @property
    def hits(self) -> str:
        """How often what the switch bets on came true, while it was on."""
        if self.switch == "chaining":
            hit, of = sum(row.chained_hits for row in self.on), sum(row.chained for row in self.on)
            return f"{_share(hit, of)} of {of} chained drafts hit"
        dropped, rows = sum(row.rows_dropped for row in self.on), sum(row.rows for row in self.on)
        wrongly, rounds = sum(row.dropped_wrongly for row in self.on), sum(row.rounds for row in self.on)
        return f"{_share(dropped, rows)} of {rows} rows dropped; wrongly {wrongly} times in {rounds} rounds"


def in_turns(switch: str, sessions: int, rtt_ms: float, turns: int, run: Callable[[bool], Row]) -> Compared:
    """Off and on, on and off, and so on: what the machine drifts by falls on both alike.

    Args:
        run: measures once, with the switch off (``False``) or on.
    """
    rows: dict[bool, list[Row]] = {False: [], True: []}
    for turn in range(turns):
        for on in (False, True) if turn % 2 == 0 else (True, False):
            rows[on].append(run(on))
    return Compared(switch, sessions, rtt_ms, tuple(rows[False]), tuple(rows[True]))


def switches(
    switch: Annotated[
        list[str] | None, typer.Option(help="chaining or dropping; may be repeated, by default chaining.")
    ] = None,
    sessions: Annotated[str, typer.Option(help="How many at once, with commas between.")] = "1,8",
    rtt_ms: Annotated[str, typer.Option(help="Round trips of the devices' network, with commas between.")] = "20,80",
    model: Annotated[str, typer.Option(help="The target: a name, a folder or a GGUF file.")] = "smollm2-135m",
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "bfloat16",
    threads: Annotated[int, typer.Option(min=1, help="Of the target; with 1 it gets a core of its own.")] = 1,
    in_process: Annotated[bool, typer.Option("--in-process", help="The engine alone: no sockets, no process.")] = False,
    exits: Annotated[
        str | None, typer.Option(help="Where rows are dropped; by default where a head is trained.")
    ] = None,
    heads: Annotated[Path | None, typer.Option(help="Trained exit heads, for dropping.")] = None,
    drop_confidence: Annotated[float, typer.Option(min=0.0, max=1.0, help="How sure an exit must be.")] = 0.9,
    draft_length: Annotated[int, typer.Option(min=1, help="Tokens a draft.")] = 4,
    acceptance: Annotated[float, typer.Option(help="Probability that a drafted token is accepted.")] = 0.8,
    token_ms: Annotated[float, typer.Option(min=0.0, help="What drafting a token takes a device.")] = 5.0,
    max_tokens: Annotated[int, typer.Option(min=2, help="Length of a text.")] = 48,
    turns: Annotated[int, typer.Option(min=1, help="Times each is measured off and on.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.1, help="Measured each time, at least.")] = 3.0,
    warm_up: Annotated[float, typer.Option(min=0.0, help="Seconds before that, in which devices begin.")] = 1.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there too.")
    ] = None,
) -> None:
    """Measure chained rounds, and rows dropped at exits, off and on in turns."""
    wanted = switch or ["chaining"]
    if unknown := [each for each in wanted if each not in SWITCHES]:
        raise UsageError(f"there is no switch {unknown[0]!r}; choose from {', '.join(SWITCHES)}.")
    if "dropping" in wanted and exits is None and heads is None:
        raise UsageError("rows are dropped at exits; say which with --heads FILE or --exits LAYERS.")
    counts, trips = counts_from(sessions), _trips(rtt_ms)
    if json_file is not None:
        check_writable(json_file)
    errs = independent(acceptance)
    stop_on_termination()
    opened = open_model(model)
    texts = known_texts(opened, max(counts), max_tokens)
    context = max(len(text.prompt) for text in texts) + max_tokens
    plain = Setting(model, dtype, threads, max(counts), context, in_process)
    cores = choose_cores() if threads == 1 and not in_process else Cores()
    pin(0, cores.edge)
    found: list[Compared] = []
    with contextlib.ExitStack() as stack:
        without = stack.enter_context(serving(plain, opened, cores))
        learn(without, texts)
        with_exits = without
        if "dropping" in wanted:
            dropping = replace(
                plain, exits=exits, heads=str(heads) if heads is not None else None, drop_confidence=drop_confidence
            )
            with_exits = stack.enter_context(serving(dropping, opened, cores))
        for each in wanted:
            for count in counts:
                for trip in trips:

                    def run(on: bool, each: str = each, count: int = count, trip: float = trip) -> Row:
                        window = 2 if on and each == "chaining" else 1
                        habits = Habits(draft_length=draft_length, window=window, token_s=token_ms / 1e3)
                        exchange = with_exits if on and each == "dropping" else without
                        return measure(
                            exchange, texts, count, habits, errs, seconds=seconds, warm_up_s=warm_up, rtt_s=trip / 1e3
                        )  # fmt: skip

                    found.append(in_turns(each, count, trip, turns, run))
                    Console(stderr=True).print(
                        f"{each}, {count} at once, {trip:g} ms: {found[-1].ratio:.2f}", style="dim"
                    )
    for line in table(found):
        print(line)
    if json_file is not None:
        rows = [{**asdict(each), "ratio": each.ratio, "spread": each.spread, "hits": each.hits} for each in found]
        about = {"foredraft": version(), "machine": machine(), "target": asdict(plain), "acceptance": errs.acceptance}
        options = {"exits": exits, "heads": str(heads) if heads else None, "drop_confidence": drop_confidence}
        write_atomically(json_file, {**about, "dropping": options, "rows": rows})


def table(found: Sequence[Compared]) -> list[str]:
    """As Markdown, a line each."""
    lines = [
        "| switch | sessions | round trip ms | off tokens/s | on tokens/s | on/off | its spread | round p50 ms off, on | hits |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for each in found:
        off, on = (median(row.tokens_per_second for row in rows) for rows in (each.off, each.on))
        waits = ", ".join(_middle([row.round_p50_ms for row in rows]) for rows in (each.off, each.on))
        low, high = each.spread
        lines.append(
            f"| {each.switch} | {each.sessions} | {each.rtt_ms:g} | {off:.1f} | {on:.1f} | {each.ratio:.2f} | "
            f"{low:.2f} to {high:.2f} | {waits} | {each.hits} |"
        )
    return lines


def _middle(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.0f}" if known else "–"


def _share(part: int, of: int) -> str:
    return f"{part / of:.0%}" if of else "–"


def _trips(text: str) -> list[float]:
    try:
        trips = [float(part) for part in text.split(",")]
    except ValueError:
        trips = []
    if not trips or not all(0.0 <= trip <= 60_000.0 for trip in trips):
        raise UsageError(f"round trips are {text!r}; give milliseconds with commas between, such as 20,80.")
    return trips
