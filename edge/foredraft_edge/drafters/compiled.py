"""Drafting in the compiled kernels: weights in blocks of 4 or 8 bits, one call into them a token.

A model is packed once (:func:`packed`) and read from that file ever after. Beside its weights the file holds what a step looks
up: the embedding in float16, of which rows are read where they lie, and the rotations.
"""

from __future__ import annotations

import ctypes
import json
import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.errors import BackendMissing, ModelDamaged
from foredraft_shared.kernels import library as c
from foredraft_shared.kernels.blocks import Packed, pack
from foredraft_shared.kernels.memory import WeightMemory, lazy_zeros
from foredraft_shared.messages import Position
from foredraft_shared.models.arrangement import arranged, checked

from .kept import DraftWeights, head_tokens, kept
from .rope import rotary_tables
from .text import CachedText

__all__ = ["CompiledDrafter", "pack_draft", "packed"]

_VERSION = 1
"""Counts up with every change to what is written."""
_METADATA = "foredraft"
_CONTEXT = 8192
_PAGE_TOKENS = 64
_PRODUCTS = ("qkv", "output", "gate_up", "down")


def packed(draft: DraftWeights, *, folder: Path | None = None) -> Path:
    """The packed file of ``draft``; see :func:`~foredraft_edge.drafters.kept.kept`."""
    return kept(draft, f"blocks {_VERSION}", ".safetensors", lambda path: pack_draft(draft, path), folder=folder)


def pack_draft(draft: DraftWeights, path: Path) -> None:
    """Write ``draft`` as the kernels take it, all of it or nothing.

    Raises:
        ModelDamaged: a weight is missing or of another shape.
        BackendMissing: the package safetensors is not installed.
        OSError: there is no room.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import save_file
    except ImportError:
        raise BackendMissing("Packing a draft needs the package safetensors: pip install 'foredraft[edge]'.") from None
    config, weights = draft.config, draft.weights
    context = min(_CONTEXT, config.context)
    embedding = checked(weights, "embedding.weight", config.vocabulary, config.hidden)
    head = weights.get("head.weight", embedding)
    tokens = head_tokens(config, weights, len(head))
    tensors: dict[str, NDArray[Any]] = {
        "embedding": embedding.astype(np.float16),
        "norm": checked(weights, "norm.weight", config.hidden),
        "turns": np.stack(rotary_tables(config.rope, config.head_dim, context), -1),  # [context, D/2, 2]
    }
    if tokens is not None:
        tensors["head.tokens"] = tokens
    kinds = {"head": _add(tensors, "head", pack(head))}
    for index in range(config.layers):
        layer = arranged(config, weights, index)
        for name in _PRODUCTS:
            kinds[f"{index}.{name}"] = _add(tensors, f"{index}.{name}", pack(getattr(layer, name)))
        for name in ("attention_norm", "mlp_norm", "query_key_norm", "qkv_bias", "output_bias"):
            if (array := getattr(layer, name)) is not None:
                tensors[f"{index}.{name}"] = array
    facts = {
        "version": _VERSION,
        "fingerprint": draft.fingerprint,
        "context": context,
        "head": len(head),
        "kinds": kinds,
        **{name: getattr(config, name) for name in _SIZES},
        "window": config.sliding_window or 0,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".pack-") as folder:
        made = Path(folder) / path.name
        try:
            save_file(tensors, made, metadata={_METADATA: json.dumps(facts)})
        except SafetensorError as error:
            raise OSError(" ".join(str(error).split())) from None
        made.replace(path)


_SIZES = ("layers", "hidden", "heads", "kv_heads", "head_dim", "feed_forward", "vocabulary", "norm_eps")


def _add(tensors: dict[str, NDArray[Any]], name: str, weight: Packed) -> int:
    tensors[f"{name}.weight"] = weight.panels
    return int(weight.kind)


class CompiledDrafter(CachedText):
    """A decoder packed by :func:`pack_draft`.

    Args:
        kernels: :func:`foredraft_shared.kernels.library.library`.
        path: the packed file.
        threads: cores a step may use.
        chunk: rows read in one pass when a text is new; bounds the memory of the prefill.

    Raises:
        ModelDamaged: the file is none of ours, of another version, or broken.
    """

    def __init__(self, kernels: ctypes.CDLL, path: Path, *, threads: int = 1, chunk: int = 128) -> None:
        self._kernels, self._threads, self._chunk = kernels, threads, chunk
        self._file, facts = _open(path)
        tensors = {name: self._file.get_tensor(name) for name in self._file.keys() if name != "embedding"}  # noqa: SIM118
        super().__init__(facts["fingerprint"], facts["context"], facts["vocabulary"], tensors.get("head.tokens"))
        self.layers: int = facts["layers"]
        self._embedding = self._file.get_slice("embedding")
        self._eps: float = facts["norm_eps"]
        self._memory = WeightMemory()
        self._kept: list[NDArray[Any]] = []  # what the kernels have the addresses of
        self._turns = self._keep(tensors["turns"])
        self._norm = self._keep(tensors["norm"])
        self._sizes = c.Sizes(
            *(facts[name] for name in ("hidden", "heads", "kv_heads", "head_dim", "feed_forward", "window")), self._eps
        )
        layers = (self._layer(facts, tensors, f"{index}.") for index in range(self.layers))
        self._layers = (c.Layer * self.layers)(*layers)
        self._head = self._product(facts, tensors, "head", facts["hidden"], facts["head"])
        self._logits = np.zeros((1, facts["head"]), np.float32)
        self._positions = np.arange(self.context, dtype=np.int64)  # and the numbers of the pages
        self._starts = np.zeros(chunk, np.int64)
        self._pages = -(-self.context // _PAGE_TOKENS)
        shape = (self.layers, 2, facts["kv_heads"], self._pages, _PAGE_TOKENS, facts["head_dim"])
        self._arena = lazy_zeros(2 * math.prod(shape)).view(np.uint16).reshape(shape)

    def close(self) -> None:
        """Free the weights and the cache; the drafter cannot be used again. May be called twice."""
        super().close()
        if not self._kept:
            return
        self._kept = []
        del self._memory, self._turns, self._norm, self._file, self._embedding, self._arena, self._layers, self._head

    def _read(self, start: Position, stop: Position) -> NDArray[np.float32]:
        for first in range(start, stop, self._chunk):
            hidden = self._hidden(first, min(first + self._chunk, stop))
        row: NDArray[np.float32] = self._scores(hidden[-1:], self._logits)[0]
        return row

    def _read_all(self, start: Position, stop: Position) -> NDArray[np.float32]:
        chunks = []
        for first in range(start, stop, self._chunk):
            hidden = self._hidden(first, min(first + self._chunk, stop))
            chunks.append(self._scores(hidden, np.empty((len(hidden), self._logits.shape[1]), np.float32)))
        return np.concatenate(chunks)

    def _hidden(self, start: Position, stop: Position) -> NDArray[np.float32]:
        """[stop - start, E], behind all layers; at most a chunk."""
        hidden = self._embedded(self._text[start:stop])
        rows = c.Rows(
            len(hidden),
            self._positions[start:].ctypes.data,
            self._starts.ctypes.data,
            self._positions.ctypes.data,
            self._turns[start:].ctypes.data,
            self._pages,
        )
        self._kernels.foredraft_layers(
            self._layers,
            self.layers,
            self._sizes,
            rows,
            self._arena.ctypes.data,
            self._arena[0].size,
            hidden.ctypes.data,
            self._threads,
        )
        return hidden

    def _scores(self, hidden: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """``scores`` [rows, head], filled in for ``hidden`` [rows, E]."""
        self._kernels.foredraft_product(
            self._head,
            self._norm.ctypes.data,
            self._eps,
            hidden.ctypes.data,
            len(hidden),
            scores.ctypes.data,
            self._threads,
        )
        return scores

    def _embedded(self, tokens: Iterable[int]) -> NDArray[np.float32]:
        """[R, E], in one piece."""
        return np.concatenate([self._embedding[token : token + 1] for token in tokens]).astype(np.float32)

    # --- loading

    def _layer(self, facts: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], prefix: str) -> c.Layer:
        hidden, feed, dim = facts["hidden"], facts["feed_forward"], facts["head_dim"]
        query, key = facts["heads"] * dim, facts["kv_heads"] * dim
        shapes = {
            "qkv": (hidden, query + 2 * key),
            "output": (query, hidden),
            "gate_up": (hidden, 2 * feed),
            "down": (feed, hidden),
        }
        qkv, output, gate_up, down = (self._product(facts, tensors, prefix + name, *shapes[name]) for name in _PRODUCTS)
        attention_norm, mlp_norm, query_key_norm = (
            self._address(tensors, prefix + name) for name in ("attention_norm", "mlp_norm", "query_key_norm")
        )
        return c.Layer(attention_norm, qkv, query_key_norm, output, mlp_norm, gate_up, down)

    def _product(
        self, facts: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], name: str, inputs: int, outputs: int
    ) -> c.Product:
        weight, bias = (self._address(tensors, f"{name}{part}") for part in (".weight", "_bias"))
        return c.Product(facts["kinds"][name], weight, None, None, bias, inputs, outputs)

    def _address(self, tensors: Mapping[str, NDArray[Any]], name: str) -> int | None:
        array = tensors.get(name)
        return None if array is None else self._keep(array).ctypes.data

    def _keep(self, array: NDArray[Any]) -> NDArray[Any]:
        """The same at an address that is a multiple of 64, for as long as the drafter lives."""
        kept = self._memory.keep(array)
        self._kept.append(kept)
        return kept


def _open(path: Path) -> tuple[Any, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        file: Any = safe_open(path, framework="numpy")
        facts: dict[str, Any] = json.loads((file.metadata() or {})[_METADATA])
        if facts.get("version") != _VERSION:
            raise ValueError(f"version {facts.get('version')}")
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ModelDamaged(f"{path} cannot be read ({reason}); delete it to have it packed again.") from error
    return file, facts
