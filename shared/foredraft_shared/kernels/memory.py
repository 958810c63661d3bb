"""Room for keys and values that takes memory only where it is written."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

__all__ = ["lazy_zeros"]


def lazy_zeros(size: int) -> NDArray[np.uint8]:
    """``size`` bytes of 0, at an address that is a multiple of 4,096.

    In small pages of memory. The keys of one token go to hundreds of places, far apart: in huge pages the first token of a text
    takes hundreds of megabytes, and up to a second for the system to clear them (docs/log.md).
    """
    memory = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.uint8, size)
