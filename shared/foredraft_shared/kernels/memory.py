"""Memory as the kernels want it: room for keys and values that takes none until it is written, and weights in huge pages."""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["WeightMemory", "lazy_zeros"]

_HUGE = 1 << 21
_PIECE = 1 << 25
_LINE = 64


def lazy_zeros(size: int) -> NDArray[np.uint8]:
    """``size`` bytes of 0, at an address that is a multiple of 4,096.

    In small pages of memory. The keys of one token go to hundreds of places, far apart: in huge pages the first token of a text
    takes hundreds of megabytes, and up to a second for the system to clear them (docs/log.md).
    """
    memory = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _advise(memory, "MADV_NOHUGEPAGE")
    return np.frombuffer(memory, np.uint8, size)


def _advise(memory: mmap.mmap, advice: str) -> None:
    """Where the system knows of it: Linux on a small board may be built without huge pages."""
    if hasattr(mmap, advice):
        with suppress(OSError):
            memory.madvise(getattr(mmap, advice))


class WeightMemory:
    """Where weights lie, one behind the other, in huge pages where the system has them.

    A pass reads all of them: in pages of 4 KiB the processor looks up sixty thousand addresses for a model of 135 million
    weights, and forgets those of everything else (docs/log.md).
    """

    def __init__(self) -> None:
        self._piece = np.zeros(0, np.uint8)

    def keep(self, array: NDArray[Any]) -> NDArray[Any]:
        """A copy of ``array`` at an address that is a multiple of 64."""
        size = -(-array.nbytes // _LINE) * _LINE
        if size > len(self._piece):
            room = max(-(-size // _HUGE) * _HUGE, _PIECE)
            memory = mmap.mmap(-1, room + _HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            _advise(memory, "MADV_HUGEPAGE")
            whole = np.frombuffer(memory, np.uint8)
            first = -whole.ctypes.data % _HUGE
            self._piece = whole[first : first + room]
        kept = self._piece[: array.nbytes].view(array.dtype).reshape(array.shape)
        self._piece = self._piece[size:]
        kept[...] = array
        return kept
