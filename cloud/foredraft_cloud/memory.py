"""How much memory this machine lets the cache have."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["memory_bytes", "suggested_cache_bytes"]

_SHARE = 4
"""One part in so many of the memory: weights, the interpreter and the other programs need the rest."""
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def memory_bytes() -> int:
    """Memory of the machine, or of the container this runs in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in _CGROUP_LIMITS:
        try:
            total = min(total, int(file.read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return total


def suggested_cache_bytes(wanted: int, least: int) -> int:
    """``wanted`` bytes, as far as they are at most a quarter of the memory; ``least`` in any case."""
    return max(least, min(wanted, memory_bytes() // _SHARE))
