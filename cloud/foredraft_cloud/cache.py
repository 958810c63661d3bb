"""Keys and values of the sessions: one slot each, which rewinds by index.

A slot's room is reserved for the whole context as zero pages, which cost no memory until they are written: the memory in
use follows the text. What lies beyond ``length`` is never read as anything but a finite number with weight zero, so a
rewind changes one integer.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from foredraft_shared.errors import Overloaded
from foredraft_shared.messages import Position
from foredraft_shared.models.config import ModelConfig

__all__ = ["Cache", "CacheSlot"]

_ALIGNMENT = 64
"""Bytes: a cache line and an AVX-512 register. Products may differ in their last bits with the alignment of their inputs."""


class CacheSlot:
    """One session's keys and values.

    Attributes:
        rows: [layers, 2 (keys, values), kv_heads, capacity, head_dim]
        length: tokens held.
    """

    __slots__ = ("length", "open", "rows")

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.length: Position = 0
        self.open = True


class Cache:
    """Slots of one shape, at most ``slots`` of them; a released one is used again.

    Args:
        capacity: tokens a slot holds.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, capacity: int, slots: int) -> None:
        self._shape = (config.layers, 2, config.kv_heads, capacity, config.head_dim)
        self._dtype = dtype
        self._slots = slots
        self._taken = 0
        self._released: list[CacheSlot] = []

    def open(self) -> CacheSlot:
        """An empty slot.

        Raises:
            Overloaded: all are taken.
        """
        if self._taken == self._slots:
            raise Overloaded(f"all {self._slots} session slots are taken; try again later or serve with more slots.")
        self._taken += 1
        if not self._released:
            return CacheSlot(_zero_pages(self._shape, self._dtype))
        slot = self._released.pop()
        return CacheSlot(slot.rows)  # a new name: whoever kept the old one finds it closed

    def release(self, slot: CacheSlot) -> None:
        """Take the slot's room back."""
        assert slot.open, "the slot was released before"
        slot.open = False
        self._taken -= 1
        self._released.append(slot)


def _zero_pages(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory until written (torch.zeros writes them)."""
    size = int(np.prod(shape)) * dtype.itemsize
    pages = torch.from_numpy(np.zeros(size + _ALIGNMENT, np.uint8))
    start = -pages.data_ptr() % _ALIGNMENT
    return pages[start : start + size].view(dtype).view(shape)
