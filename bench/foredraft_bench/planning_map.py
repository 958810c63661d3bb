"""The map: when edge and cloud together are faster than the cloud alone, from the simulator.

::

    python -m foredraft_bench.planning_map
"""

from __future__ import annotations

import argparse
import statistics

from foredraft_shared.transports.relay import LinkSettings

from .simulate import simulate
from .virtual_models import Times

__all__ = ["cells"]

RTTS_MS = (1.0, 3.0, 10.0, 20.0, 40.0, 80.0, 150.0, 300.0, 600.0)
RATIOS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
ACCEPTANCES = (0.5, 0.7, 0.8, 0.9)
VERIFY_MS = 40.0


def cells(tokens: int, texts: int) -> dict[float, list[list[float]]]:
    """Speed-up of chained speculation over the cloud alone: ``[ratio][rtt]`` for each acceptance."""

    def speedup(rtt_ms: float, ratio: float, acceptance: float) -> float:
        times = Times(draft_ms=VERIFY_MS * ratio, verify_ms=VERIFY_MS, row_ms=0.2, decode_ms=VERIFY_MS)
        taken = [
            simulate(
                link=LinkSettings(rtt_ms=rtt_ms), times=times, acceptance=acceptance, mode="ahead", tokens=tokens,
                seed=seed,
            ).ms_per_token
            for seed in range(texts)
        ]  # fmt: skip
        return VERIFY_MS / statistics.mean(taken)

    return {
        acceptance: [[speedup(rtt_ms, ratio, acceptance) for rtt_ms in RTTS_MS] for ratio in RATIOS]
        for acceptance in ACCEPTANCES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The map of docs/planning.md, as Markdown.")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--texts", type=int, default=4)
    asked = parser.parse_args()
    for acceptance, table in cells(asked.tokens, asked.texts).items():
        print(f"\n**{acceptance:.0%} of the drafted tokens are right**\n")
        print("| draft \\ round trip | " + " | ".join(f"{rtt / VERIFY_MS:.3g}" for rtt in RTTS_MS) + " |")
        print("|---|" + "---|" * len(RTTS_MS))
        for ratio, values in zip(RATIOS, table, strict=True):
            told = (f"**{value:.1f}**" if value > 1.05 else f"{value:.2g}" for value in values)
            print(f"| {ratio:g} | " + " | ".join(told) + " |")


if __name__ == "__main__":
    main()
