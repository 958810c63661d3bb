"""``foredraft bench engine --floor``: W8A8 beside bfloat16, and both beside the time it takes to read their weights.

A pass over a few rows reads every weight once, so that it takes at least their bytes over the bandwidth of the memory. What one
thread reaches is measured in the same run, by adding up an array that no cache holds. Arithmetics, numbers of rows and that
array take turns, a pass each; and so do the sets of instructions, where the processor has several.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from foredraft_cloud.decoder import LoadedModel
from foredraft_shared.models.config import ModelConfig, Rope

from .room import check_room

__all__ = ["RANDOM", "Floored", "RandomModel", "compiled_sets", "measure_floor", "product_weights"]

RANDOM = "random:qwen2-1.5b"
"""A model of random numbers in the shapes of Qwen2-1.5B."""

_QWEN2 = ModelConfig(
    family="qwen2", layers=28, hidden=1536, heads=12, kv_heads=2, head_dim=128, feed_forward=8960, vocabulary=151936,
    context=32768, rope=Rope(theta=1e6), norm_eps=1e-6, tied=True, attention_bias=True,
)  # fmt: skip
_BYTES = {"float32": 4, "bfloat16": 2, "w8a8": 1}
_READ_BYTES = 512 * 2**20
_WARM = 2
"""Passes of each kind that are not counted."""


@dataclass(frozen=True, slots=True)
class Floored:
    """Passes of one kind."""

    dtype: str
    kernels: str
    """The set of instructions they are compiled for, or ``torch``."""
    rows: int
    median_ms: float
    of_bfloat16: float
    """Computed by the same kernels."""
    of_torch: float | None
    """Where that was measured, too."""
    floor_ms: float
    """Bytes of the weights of all products over the bandwidth of reading."""
    over_floor: float
    read_gib_per_s: float
    copy_gib_per_s: float
    """Of a copy, counted one way: an array's bytes over the time to copy it."""


class _RandomWeights(Mapping[str, NDArray[np.float32]]):
    """Made when looked up; the same numbers over and over, which no product minds."""

    def __init__(self, config: ModelConfig) -> None:
        query, key, hidden, feed = (
            config.heads * config.head_dim,
            config.kv_heads * config.head_dim,
            config.hidden,
            config.feed_forward,
        )
        self._shapes: dict[str, tuple[int, ...]] = {
            "embedding.weight": (config.vocabulary, hidden),
            "norm.weight": (hidden,),
        }
        if not config.tied:
            self._shapes["head.weight"] = (config.vocabulary, hidden)
        for index in range(config.layers):
            prefix = f"layers.{index}."
            self._shapes |= {
                f"{prefix}attn_norm.weight": (hidden,),
                f"{prefix}attn.q.weight": (query, hidden),
                f"{prefix}attn.k.weight": (key, hidden),
                f"{prefix}attn.v.weight": (key, hidden),
                f"{prefix}attn.o.weight": (hidden, query),
                f"{prefix}mlp_norm.weight": (hidden,),
                f"{prefix}mlp.gate.weight": (feed, hidden),
                f"{prefix}mlp.up.weight": (feed, hidden),
                f"{prefix}mlp.down.weight": (hidden, feed),
            }
            if config.attention_bias:
                self._shapes |= {f"{prefix}attn.{part}.bias": (query if part == "q" else key,) for part in "qkv"}
        self._numbers = (np.random.default_rng(0).standard_normal(2**20 + 7) * 0.02).astype(np.float32)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return np.resize(self._numbers, self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class RandomModel:
    """A model of that shape whose weights are random."""

    def __init__(self, config: ModelConfig | None = None, name: str = RANDOM) -> None:
        self.config, self.name = config or _QWEN2, name
        self.weights: Mapping[str, NDArray[np.float32]] = _RandomWeights(self.config)


def product_weights(config: ModelConfig) -> int:
    """How many weights the products of a pass have; the embedding counts as the head, of which every row is read."""
    attention = config.hidden * config.head_dim * (2 * config.heads + 2 * config.kv_heads)
    return config.layers * (attention + 3 * config.hidden * config.feed_forward) + config.vocabulary * config.hidden


def compiled_sets() -> list[str]:
    """The sets of instructions that kernels can be compiled for here, best first; the one that ``FOREDRAFT_KERNELS`` names."""
    from foredraft_shared.kernels.library import library, possible

    return [name for name in possible() if library(name) is not None]


def measure_floor(
    model: LoadedModel,
    *,
    threads: int = 1,
    rows: Sequence[int] = (1, 4, 8, 16),
    dtypes: Sequence[str] = ("bfloat16", "w8a8"),
    cached: int = 128,
    turns: int = 15,
    in_torch: bool = False,
) -> list[Floored]:
    """Time passes that score every row, in each of ``dtypes`` and in every set of instructions that there is, the best ones only
    where the memory holds no more.

    Args:
        in_torch: time the same passes without compiled kernels as well.
        cached: tokens before the pass.
        turns: passes of each kind.

    Raises:
        UsageError: so many tokens do not fit into the model's context.
    """
    import torch

    from foredraft_cloud.decoder import load_target
    from foredraft_cloud.memory import memory_bytes
    from foredraft_cloud.target import Run

    check_room(cached, max(rows), model.config.context)
    prompt = tuple(token % model.config.vocabulary for token in range(1, cached + 1))
    kinds: dict[tuple[str, str, int], Callable[[], object]] = {}
    bytes_of_one = product_weights(model.config) * sum(_BYTES[dtype] for dtype in dtypes)
    sets = compiled_sets()[: max(1, memory_bytes() // 2 // bytes_of_one)]  # each has weights of its own
    by = [*sets, "torch"] if in_torch or not sets else sets

    def add(dtype: str, kernels: str) -> None:
        target = load_target(
            model,
            dtype=dtype,
            threads=threads,
            context=cached + max(rows),
            slots=1,
            compiled=kernels if kernels in sets else False,
        )
        slot = target.open()
        target.verify([Run(slot, prompt, 0)], exits=False).step()

        def run(count: int) -> None:
            target.verify([Run(slot, prompt[:count], count)], exits=False).step()
            target.keep(slot, cached)

        kinds.update({(dtype, kernels, count): lambda count=count: run(count) for count in rows})  # type: ignore[misc]

    for kernels in by:
        for dtype in dtypes:
            add(dtype, kernels)
    source = torch.ones(_READ_BYTES // 4)
    copy = torch.empty_like(source)
    kinds["read", "", 0], kinds["copy", "", 0] = source.sum, lambda: copy.copy_(source)
    seconds: dict[tuple[str, str, int], list[float]] = {kind: [] for kind in kinds}
    for _ in range(turns + _WARM):
        for kind, run in kinds.items():
            began = time.perf_counter()
            run()
            seconds[kind].append(time.perf_counter() - began)
    typical = {kind: median(each[_WARM:]) for kind, each in seconds.items()}
    read, copied = (_READ_BYTES / typical[kind, "", 0] for kind in ("read", "copy"))
    floors = {dtype: product_weights(model.config) * _BYTES[dtype] / read for dtype in dtypes}
    return [
        Floored(
            dtype,
            kernels,
            count,
            typical[dtype, kernels, count] * 1e3,
            typical[dtype, kernels, count] / typical[dtypes[0], kernels, count],
            typical[dtype, kernels, count] / typical[dtype, "torch", count] if "torch" in by else None,
            floors[dtype] * 1e3,
            typical[dtype, kernels, count] / floors[dtype],
            read / 2**30,
            copied / 2**30,
        )
        for kernels in by
        for dtype in dtypes
        for count in rows
    ]
