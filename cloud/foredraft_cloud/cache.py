"""Keys and values of all sessions: one arena of pages, which is all the memory there ever is.

The arena is reserved at once as zero pages, which cost nothing until they are written: the memory in use follows what
sessions hold, up to the limit. What lies beyond a slot's ``length`` is never read as anything but a finite number with
weight zero.
"""

from __future__ import annotations

import torch

from foredraft_shared.kernels.memory import lazy_zeros
from foredraft_shared.models.config import ModelConfig

from .pages import Pages

__all__ = ["PAGE_TOKENS", "Cache", "bytes_per_token"]

PAGE_TOKENS = 64
"""Divides every number of keys that attention rounds up to."""


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """What the keys and values of one token take."""
    return config.layers * 2 * config.kv_heads * config.head_dim * dtype.itemsize


class Cache:
    """The arena.

    Args:
        limit_bytes: whole pages within it are used; never more.

    Attributes:
        rows: [layers, 2 (keys, values), kv_heads, pages, PAGE_TOKENS, head_dim]
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, limit_bytes: int) -> None:
        page_bytes = PAGE_TOKENS * bytes_per_token(config, dtype)
        count = limit_bytes // page_bytes
        shape = (config.layers, 2, config.kv_heads, count, PAGE_TOKENS, config.head_dim)
        self.rows = torch.from_numpy(lazy_zeros(count * page_bytes)).view(dtype).view(shape)
        self.pages = Pages(count, PAGE_TOKENS, page_bytes, self._copy)

    def _copy(self, source: int, destination: int, count: int) -> None:
        self.rows[:, :, :, destination, :count].copy_(self.rows[:, :, :, source, :count])
