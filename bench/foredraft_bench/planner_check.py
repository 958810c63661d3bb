"""Whether the planner keeps its promise: never much slower than the better of the cloud alone and speculation.

::

    python -m foredraft_bench.planner_check               # round trips from 1 to 600 ms
    python -m foredraft_bench.planner_check --profiles    # named networks, passes that vary by 30 %, an uneven text

Each cell is a link, a drafter's speed and its acceptance. One planner writes several texts in a row; the first, of which it
knows nothing beforehand but the round trip of the greeting, is told apart from the others. Length and mode of the
speculation it is compared with are those of the same planner without leave to switch.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from foredraft_shared.transports.profiles import PROFILES
from foredraft_shared.transports.relay import LinkSettings

from .metrics import percentile
from .simulate import planner_for, simulate
from .virtual_models import Times

__all__ = ["Cell", "check"]

VERIFY_MS = 40.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of link, drafter and text."""

    name: str
    link: LinkSettings
    ratio: float
    """Drafting a token / a pass of the target."""
    acceptance: float
    spread: float = 0.0
    concentration: float | None = None


def grid() -> Iterator[Cell]:
    for rtt_ms in (1.0, 20.0, 60.0, 150.0, 600.0):
        for ratio in (0.02, 0.1, 0.25, 0.5, 1.0):
            for acceptance in (0.0, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95):
                yield Cell(f"{rtt_ms:g} ms", LinkSettings(rtt_ms=rtt_ms), ratio, acceptance)


def profiles() -> Iterator[Cell]:
    for name, link in PROFILES.items():
        for ratio in (0.05, 0.25):
            for acceptance in (0.3, 0.6, 0.75, 0.9):
                yield Cell(name, link, ratio, acceptance, spread=0.3, concentration=3.0)


def check(cell: Cell, texts: int, tokens: int) -> tuple[float, float, float, float]:
    """``(first, later, chosen_ms, best_ms)``: excess over the best, of the first text and of the later ones."""
    planner = planner_for("auto")

    def ms_per_token(mode: str, seed: int) -> float:
        return simulate(
            link=cell.link,
            times=Times(VERIFY_MS * cell.ratio, VERIFY_MS, 0.2, VERIFY_MS, spread=cell.spread),
            acceptance=cell.acceptance,
            mode=mode,
            tokens=tokens,
            seed=seed,
            concentration=cell.concentration,
            planner=planner if mode == "auto" else None,
        ).ms_per_token

    taken = {mode: [ms_per_token(mode, seed) for seed in range(texts)] for mode in ("auto", "cloud", "ahead")}

    def excess(texts: slice) -> tuple[float, float, float]:
        chosen, cloud, chained = (statistics.mean(taken[mode][texts]) for mode in ("auto", "cloud", "ahead"))
        return chosen / min(cloud, chained) - 1.0, chosen, min(cloud, chained)

    later, chosen_ms, best_ms = excess(slice(1, None))
    return excess(slice(0, 1))[0], later, chosen_ms, best_ms


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether the planner keeps its promise.")
    parser.add_argument("--profiles", action="store_true")
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    asked = parser.parse_args()
    found = [(cell, check(cell, asked.texts, asked.tokens)) for cell in (profiles() if asked.profiles else grid())]
    for place, title in ((0, "first text"), (1, "later texts")):
        excesses = [figures[place] for _, figures in found]
        above = sum(excess > 0.03 for excess in excesses)
        print(
            f"{title}: mean {statistics.mean(excesses):+.1%}, 95th percentile {percentile(excesses, 0.95):+.1%}, "
            f"largest {max(excesses):+.1%}; above 3 %: {above} of {len(found)} cells"
        )
    print(
        "\n| link | draft / pass | acceptance | first text | later texts | chosen, best ms |\n|---|---|---|---|---|---|"
    )
    for cell, (first, later, chosen_ms, best_ms) in sorted(found, key=lambda each: -each[1][1])[:8]:
        print(
            f"| {cell.name} | {cell.ratio:g} | {cell.acceptance:g} | {first:+.1%} | {later:+.1%} "
            f"| {chosen_ms:.1f}, {best_ms:.1f} |"
        )


if __name__ == "__main__":
    main()
