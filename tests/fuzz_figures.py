"""Where the figures of a long run go, and how much memory a process has."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["frames_wanted", "report", "resident_mib"]


def frames_wanted(short: int) -> int:
    """``FUZZ_FRAMES``, or ``short``."""
    return int(os.environ.get("FUZZ_FRAMES", short))


def resident_mib(process: int | str = "self") -> float:
    """Memory that a process has, MiB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def report(name: str, figures: dict[str, Any]) -> None:
    """Print the figures, and write them into the folder named by ``OUT``."""
    print(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
    if folder := os.environ.get("OUT"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
