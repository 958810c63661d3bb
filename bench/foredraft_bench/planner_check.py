"""Whether the planner keeps its promise: never much slower than the better of the cloud alone and speculation.

::

    python -m foredraft_bench.planner_check               # 200 cells drawn from all over the place
    python -m foredraft_bench.planner_check --grid        # round trips from 1 to 600 ms, an even text
    python -m foredraft_bench.planner_check --profiles    # named networks, passes that vary by 30 %, an uneven text
    python -m foredraft_bench.planner_check --short       # named networks, a small target, texts of 32 and 40 tokens
    python -m foredraft_bench.planner_check --near --texts 24   # modes near each other, on one machine
    python -m foredraft_bench.planner_check --recorded networks.json   # named networks, texts as a real draft foresaw them

Each cell is a link, a drafter's and a target's speed and an acceptance. One planner writes several texts in a row, as over
one connection; the first, of which it knows nothing beforehand but the round trip of the greeting, is told apart from the
others. Speculation is that of the same planner without leave to switch. *Regret* is its ms a token over that of the mode
which is better over the whole conversation, less one. In reality: ``foredraft bench networks``.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from foredraft_shared.errors import UsageError
from foredraft_shared.transports.profiles import PROFILES
from foredraft_shared.transports.relay import LinkSettings

from .metrics import percentile
from .simulate import planner_for, simulate
from .virtual_models import Replayed, Times

__all__ = ["Cell", "Regret", "check", "recorded", "sampled"]

VERIFY_MS = 40.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of link, models and text."""

    name: str
    link: LinkSettings
    times: Times
    acceptance: float
    concentration: float | None = None
    """See :class:`foredraft_bench.virtual_models.Skill`."""
    tokens: int = 256
    recorded: tuple[Replayed, ...] = ()
    """Texts as a real draft foresaw them, in place of an acceptance."""

    def describe(self) -> str:
        """The numbers that make it."""
        return (
            f"{self.name}: {self.link.rtt_ms:.0f} ± {self.link.jitter_ms:.0f} ms, draft {self.times.draft_ms:.1f}, "
            f"verify {self.times.verify_ms:.0f}, {self.acceptance:.0%} right, {self.tokens} tokens"
        )


@dataclass(frozen=True, slots=True)
class Regret:
    """What the planner's choices cost, as shares of the better mode's time."""

    first: float
    """On the first text."""
    later: float
    """On the later texts, by their mean."""
    median: float
    """On the later texts, by their median."""
    chosen_ms: float
    best_ms: float
    """Means over the later texts."""


def grid() -> Iterator[Cell]:
    """175 cells, one pass of 40 ms, nothing varies."""
    for rtt_ms in (1.0, 20.0, 60.0, 150.0, 600.0):
        for ratio in (0.02, 0.1, 0.25, 0.5, 1.0):
            for acceptance in (0.0, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95):
                times = Times(VERIFY_MS * ratio, VERIFY_MS, 0.2, VERIFY_MS)
                yield Cell("grid", LinkSettings(rtt_ms=rtt_ms), times, acceptance)


def profiles() -> Iterator[Cell]:
    """56 cells: the named networks."""
    for name, link in PROFILES.items():
        for ratio in (0.05, 0.25):
            for acceptance in (0.3, 0.6, 0.75, 0.9):
                times = Times(VERIFY_MS * ratio, VERIFY_MS, 0.2, VERIFY_MS, spread=0.3)
                yield Cell(name, link, times, acceptance, concentration=3.0)


def short() -> Iterator[Cell]:
    """42 cells: the named networks, a target of 17 ms and drafts like those of SmolLM2 and its int8 copy, or smaller ones."""
    for name, link in PROFILES.items():
        for draft_ms, acceptance in ((10.5, 0.93), (10.5, 0.85), (3.0, 0.6)):
            for tokens in (32, 40):
                times = Times(draft_ms, 17.0, 0.5, 16.5, spread=0.15, between_ms=0.5, loop_ms=0.3)
                yield Cell(name, link, times, acceptance, concentration=3.0, tokens=tokens)


def near() -> Iterator[Cell]:
    """48 cells: neither mode is much faster than the other, and drafting slows the cloud's passes."""
    for acceptance in (0.75, 0.85, 0.9, 0.95):
        for rtt_ms in (30.0, 60.0, 100.0, 150.0):
            for draft_ms, verify_ms, decode_ms in ((4.0, 24.0, 20.0), (9.0, 14.0, 10.0), (15.0, 60.0, 50.0)):
                times = Times(
                    draft_ms,
                    verify_ms,
                    0.03 * verify_ms,
                    decode_ms,
                    spread=0.15,
                    between_ms=0.5,
                    loop_ms=0.2,
                    beside=0.2,
                )
                link = LinkSettings(rtt_ms=rtt_ms, jitter_ms=0.1 * rtt_ms)
                yield Cell("near", link, times, acceptance, 3.0, 40)


def recorded(path: Path) -> Iterator[Cell]:
    """21 cells: the named networks; the times of SmolLM2 in float32 and in bfloat16 with its int8 copy for a draft, and with a
    draft that takes half of that; texts of 40 tokens as the real draft foresaw them.

    Raises:
        UsageError: the file is not what ``foredraft bench networks`` writes.
    """
    try:
        texts = [
            [(bool(right), float(claim)) for right, claim in each] for each in json.loads(path.read_text())["recorded"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} holds no recorded texts ({error}); name a networks.json of bench networks.") from None
    skills = tuple(Replayed(each) for each in texts if len(each) >= 40)
    right = statistics.mean(right for each in texts for right, _ in each)
    for name, link in PROFILES.items():
        for draft_ms, verify_ms, row_ms, decode_ms in (
            (10.0, 31.0, 1.5, 28.0),
            (9.5, 13.5, 1.0, 10.6),
            (4.5, 12.5, 0.8, 10.6),
        ):
            times = Times(draft_ms, verify_ms, row_ms, decode_ms, spread=0.15, between_ms=0.5, loop_ms=0.2)
            yield Cell(name, link, times, right, tokens=40, recorded=skills)


def sampled(count: int) -> Iterator[Cell]:
    """Cells from all over the place, the same every time; times are drawn by their logarithm."""
    for index in range(count):
        dice = random.Random(f"cell {index}")

        def between(low: float, high: float, dice: random.Random = dice) -> float:
            return math.exp(dice.uniform(math.log(low), math.log(high)))

        rtt_ms, verify_ms, ratio = between(0.5, 800.0), between(12.0, 150.0), between(0.01, 1.2)
        acceptance = dice.choice((0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.96))
        jitter_ms = dice.choice((0.0, 0.0, 0.1, 0.3)) * rtt_ms
        spread, concentration = dice.choice((0.0, 0.1, 0.3)), dice.choice((None, 3.0, 3.0))
        tokens = dice.choice((32, 40, 64, 128, 256))
        times = Times(
            draft_ms=verify_ms * ratio,
            verify_ms=verify_ms,
            row_ms=verify_ms * dice.choice((0.002, 0.01, 0.03)),
            decode_ms=verify_ms * dice.uniform(0.93, 1.0),
            spread=spread,
            between_ms=0.5,
            loop_ms=0.3,
        )
        link = LinkSettings(rtt_ms=rtt_ms, jitter_ms=jitter_ms)
        yield Cell(f"cell {index}", link, times, acceptance, concentration, tokens)


def check(cell: Cell, texts: int) -> Regret:
    """A conversation of so many texts (all that were recorded), with the planner and in both modes."""
    texts = len(cell.recorded) or texts
    taken = {mode: _conversation(cell, mode, texts) for mode in ("auto", "cloud", "ahead")}
    best = min(("cloud", "ahead"), key=lambda mode: statistics.mean(taken[mode]))
    chosen_ms, best_ms = statistics.mean(taken["auto"][1:]), statistics.mean(taken[best][1:])
    return Regret(
        first=taken["auto"][0] / taken[best][0] - 1.0,
        later=chosen_ms / best_ms - 1.0,
        median=statistics.median(taken["auto"][1:]) / statistics.median(taken[best][1:]) - 1.0,
        chosen_ms=chosen_ms,
        best_ms=best_ms,
    )


def _conversation(cell: Cell, mode: str, texts: int) -> list[float]:
    planner = planner_for(mode)
    return [
        simulate(
            link=cell.link,
            times=cell.times,
            acceptance=cell.acceptance,
            mode=mode,
            tokens=cell.tokens,
            seed=seed,
            concentration=cell.concentration,
            planner=planner,
            skill=cell.recorded[seed] if cell.recorded else None,
        ).ms_per_token
        for seed in range(texts)
    ]


def _distribution(name: str, regrets: Sequence[float]) -> str:
    shares = [percentile(regrets, share) or 0.0 for share in (0.5, 0.9, 0.95, 1.0)]
    above = sum(regret > 0.03 for regret in regrets)
    cells = " | ".join(f"{share:+.1%}" for share in shares)
    return f"| {name} | {statistics.mean(regrets):+.1%} | {cells} | {above} of {len(regrets)} |"


def main() -> None:
    """Print the distribution of regrets, and the worst cells."""
    parser = argparse.ArgumentParser(description="Whether the planner keeps its promise.")
    named = {"grid": grid, "profiles": profiles, "short": short, "near": near}
    for name in named:
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--recorded", type=Path, metavar="FILE")
    parser.add_argument("--cells", type=int, default=200, help="of those drawn")
    parser.add_argument("--texts", type=int, default=6)
    parser.add_argument("--rows", type=int, default=8, help="Cells to be shown.")
    asked = parser.parse_args()
    cells = next((make() for name, make in named.items() if getattr(asked, name)), sampled(asked.cells))
    if asked.recorded is not None:
        cells = recorded(asked.recorded)
    try:
        found = [(cell, check(cell, asked.texts)) for cell in cells]
    except UsageError as error:
        parser.error(str(error))
    print("| regret | mean | median | 90 % | 95 % | largest | above 3 % |\n|---|---|---|---|---|---|---|")
    print(_distribution("first text, nothing known", [regret.first for _, regret in found]))
    print(_distribution("later texts, mean", [regret.later for _, regret in found]))
    print(_distribution("later texts, median", [regret.median for _, regret in found]))
    print("\n| worst later | first text | later texts | chosen, best ms |\n|---|---|---|---|")
    for cell, regret in sorted(found, key=lambda each: -each[1].later)[: asked.rows]:
        print(
            f"| {cell.describe()} | {regret.first:+.1%} | {regret.later:+.1%} "
            f"| {regret.chosen_ms:.1f}, {regret.best_ms:.1f} |"
        )


if __name__ == "__main__":
    main()
