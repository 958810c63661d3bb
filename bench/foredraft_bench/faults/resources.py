"""What processes hold over time, and whether it grows."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Growth", "Sample", "growth", "look"]

_SETTLING = 0.25
"""Share of a run in which a process is still filling its pools and tables: what it holds then is not looked at."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process holds at one moment."""

    at: float
    """By ``time.monotonic``."""
    rss_kib: int
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True)
class Growth:
    """How a process' memory went after it had settled."""

    rss_start_kib: int
    rss_end_kib: int
    """Medians of the first and of the last quarter of what was looked at."""
    rss_slope_kib_per_minute: float
    """Of the straight line through all of it (Theil and Sen's: the median of the slopes between any two samples)."""
    minutes: float

    @property
    def grown_kib(self) -> float:
        """What the slope comes to over the time that was looked at."""
        return self.rss_slope_kib_per_minute * self.minutes

    def is_flat(self, share: float, floor_kib: int) -> bool:
        """Whether it grew by no more than ``share`` of what it was, or ``floor_kib``."""
        return self.grown_kib <= max(floor_kib, share * self.rss_start_kib)


def look(process: int) -> Sample:
    """What a process holds now; from /proc.

    Raises:
        OSError: there is no such process, or no /proc.
    """
    folder = Path("/proc") / str(process)
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return Sample(
        time.monotonic(),
        int(status["VmRSS"].split()[0]),
        len(os.listdir(folder / "fd")),
        int(status["Threads"]),
    )


def growth(samples: Sequence[Sample]) -> Growth:
    """How memory went, the beginning of the run excepted.

    Raises:
        ValueError: fewer than four samples are left.
    """
    if not samples:
        raise ValueError("no samples tell nothing; run longer")
    began = samples[0].at + _SETTLING * (samples[-1].at - samples[0].at)
    settled = [sample for sample in samples if sample.at >= began]
    if len(settled) < 4:
        raise ValueError(f"{len(settled)} samples tell nothing; run longer")
    quarter = max(1, len(settled) // 4)
    slopes = [
        (after.rss_kib - before.rss_kib) / (after.at - before.at) * 60.0
        for index, before in enumerate(settled)
        for after in settled[index + 1 :]
    ]
    return Growth(
        _median([sample.rss_kib for sample in settled[:quarter]]),
        _median([sample.rss_kib for sample in settled[-quarter:]]),
        sorted(slopes)[len(slopes) // 2],
        (settled[-1].at - settled[0].at) / 60.0,
    )


def _median(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]
