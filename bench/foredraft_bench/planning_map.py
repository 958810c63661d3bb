"""The map: when edge and cloud together are faster than the cloud alone, far past this machine, from the simulator.

::

    python -m foredraft_bench.planning_map --out docs/pictures

writes ``map.png`` (one device: round trip against the target's pass, for three acceptances) and ``crowd.png`` (up to 1,000
devices at one cloud, :mod:`.crowd`), and prints both as Markdown.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foredraft_shared.transports.relay import LinkSettings

from .crowd import Batching, crowd
from .simulate import simulate
from .virtual_models import Times

__all__ = ["crowd_rows", "speedups"]

RTTS_MS = (1.0, 5.0, 20.0, 50.0, 100.0, 150.0, 300.0, 600.0)
PASSES_MS = (12.0, 25.0, 45.0, 90.0, 180.0)
ACCEPTANCES = (0.6, 0.8, 0.9)
DRAFT_MS = 10.0
"""A draft of about 1 billion weights on a device with a GPU of its own."""
DEVICES = (1, 3, 10, 30, 100, 300, 1000)
CROWD_RTTS_MS = (20.0, 100.0, 300.0)
LENGTHS = (1, 2, 3, 4, 6, 8, 12)
BIG = Batching(base_ms=45.0, free_rows=300, row_ms=0.12)
"""A target of 70 billion weights on several GPUs: 45 ms to read the weights, in which 300 rows can be computed as well; then
0.12 ms a row."""


def speedups(acceptance: float, tokens: int, texts: int) -> list[list[float]]:
    """Speed-up of drafting ahead over the cloud alone: ``[pass][round trip]``."""

    def speedup(rtt_ms: float, pass_ms: float) -> float:
        times = Times(draft_ms=DRAFT_MS, verify_ms=pass_ms, row_ms=0.005 * pass_ms, decode_ms=pass_ms)
        taken = [
            simulate(
                link=LinkSettings(rtt_ms=rtt_ms),
                times=times,
                acceptance=acceptance,
                mode="ahead",
                tokens=tokens,
                seed=seed,
            ).ms_per_token
            for seed in range(texts)
        ]
        return pass_ms / statistics.mean(taken)

    return [[speedup(rtt_ms, pass_ms) for rtt_ms in RTTS_MS] for pass_ms in PASSES_MS]


def crowd_rows(acceptance: float = 0.8, tokens: int = 120) -> list[tuple[int, float, dict[float, tuple[float, int]]]]:
    """For each number of devices: ms a token of the cloud alone, and by round trip that of the best draft length, with it."""
    found = []
    for devices in DEVICES:

        def ms_per_token(rtt_ms: float, length: int, devices: int = devices) -> float:
            return crowd(
                devices, rtt_ms=rtt_ms, draft_ms=DRAFT_MS, batching=BIG, acceptance=acceptance, length=length,
                tokens=tokens if devices > 3 else 20 * tokens,
            ).ms_per_token  # fmt: skip

        best = {}
        for rtt_ms in CROWD_RTTS_MS:
            taken = {length: ms_per_token(rtt_ms, length) for length in LENGTHS}
            length = min(taken, key=lambda length: taken[length])
            best[rtt_ms] = taken[length], length
        found.append((devices, ms_per_token(0.0, 0), best))
    return found


def _draw_map(tables: dict[float, list[list[float]]], path: Path) -> None:
    plt = _pyplot()
    from matplotlib.colors import LogNorm

    figure, axes = plt.subplots(1, len(tables), figsize=(13, 4.6), sharey=True, layout="constrained")
    image = None
    for axis, (acceptance, table) in zip(axes, tables.items(), strict=True):
        # A diverging scale of orange and purple, which colour-blind people tell apart; 1 is white.
        image = axis.imshow(table, cmap="PuOr", norm=LogNorm(0.2, 5.0), aspect="auto", origin="lower")
        for row, values in enumerate(table):
            for column, value in enumerate(values):
                dark = value > 3.0 or value < 1 / 3.0
                axis.text(
                    column, row, f"{value:.1f}" if value >= 0.95 else f"{value:.2f}", ha="center", va="center", fontsize=11,
                    color="white" if dark else "black", fontweight="bold" if value >= 1.05 else "normal",
                )  # fmt: skip
        axis.set_xticks(range(len(RTTS_MS)), [f"{rtt:g}" for rtt in RTTS_MS])
        axis.set_yticks(range(len(PASSES_MS)), [f"{taken:g}" for taken in PASSES_MS])
        axis.set_title(f"{acceptance:.0%} of drafted tokens right", fontsize=13)
        axis.set_xlabel("round trip, ms", fontsize=12)
    axes[0].set_ylabel("pass of the target, ms", fontsize=12)
    figure.suptitle(
        f"Speed-up over the cloud alone, streamed (draft {DRAFT_MS:g} ms a token); bold: it pays", fontsize=14
    )
    bar = figure.colorbar(image, ax=axes, ticks=[0.2, 0.5, 1, 2, 5], pad=0.01)
    bar.ax.set_yticklabels(["0.2×", "0.5×", "1×", "2×", "5×"])
    bar.ax.minorticks_off()
    _save(figure, path)


def _draw_crowd(rows: Sequence[tuple[int, float, dict[float, tuple[float, int]]]], path: Path) -> None:
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(9, 5), layout="constrained")
    devices = [row[0] for row in rows]
    axis.plot(
        devices, [row[1] for row in rows], color="black", linewidth=2.5, marker="s", label="cloud alone, streamed"
    )
    # Colours of Okabe and Ito, and each line its own dashes and marks.
    styles = (("#0072B2", "-", "o"), ("#D55E00", "--", "^"), ("#009E73", ":", "D"))
    for rtt_ms, (colour, dashes, mark) in zip(CROWD_RTTS_MS, styles, strict=True):
        taken = [row[2][rtt_ms][0] for row in rows]
        axis.plot(
            devices, taken, color=colour, linestyle=dashes, marker=mark, linewidth=2, label=f"drafting ahead, {rtt_ms:g} ms away"
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xticks(devices, [f"{count:,}" for count in devices])
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    axis.set_xlabel("devices at one cloud", fontsize=12)
    axis.set_ylabel("ms a token, each device", fontsize=12)
    axis.set_title("A target of 45 ms a pass, 80 % of drafted tokens right, best draft length", fontsize=13)
    axis.grid(visible=True, alpha=0.3)
    axis.legend(fontsize=11)
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "foredraft"  # the same picture, the same file
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    _pyplot().close(figure)


def main() -> None:
    """Draw and print."""
    parser = argparse.ArgumentParser(description="The map of docs/planning.md.")
    parser.add_argument("--out", type=Path, help="folder for the pictures; default: only print")
    parser.add_argument("--format", choices=("png", "svg"), default="png")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--texts", type=int, default=2)
    asked = parser.parse_args()
    tables = {acceptance: speedups(acceptance, asked.tokens, asked.texts) for acceptance in ACCEPTANCES}
    for acceptance, table in tables.items():
        print(f"\n**{acceptance:.0%} of the drafted tokens are right**\n")
        print("| pass \\ round trip, ms | " + " | ".join(f"{rtt:g}" for rtt in RTTS_MS) + " |")
        print("|---|" + "---|" * len(RTTS_MS))
        for pass_ms, values in zip(PASSES_MS, table, strict=True):
            told = (f"**{value:.1f}**" if value > 1.05 else f"{value:.2g}" for value in values)
            print(f"| {pass_ms:g} | " + " | ".join(told) + " |")
    rows = crowd_rows()
    print("\n| devices | cloud alone | " + " | ".join(f"{rtt:g} ms away" for rtt in CROWD_RTTS_MS) + " |")
    print("|---|---|" + "---|" * len(CROWD_RTTS_MS))
    for devices, alone_ms, best in rows:
        told = (f"{taken:.0f} ({length})" for taken, length in best.values())
        print(f"| {devices:,} | {alone_ms:.0f} | " + " | ".join(told) + " |")
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        _draw_map(tables, asked.out / f"map.{asked.format}")
        _draw_crowd(rows, asked.out / f"crowd.{asked.format}")


if __name__ == "__main__":
    main()
