"""Drafting with onnxruntime: one session, one cache that is never copied, one step a token.

The graph (:mod:`foredraft_edge.drafters.graph`) writes keys and values into the buffers it is given, at the position it
is told. So a text is a list of tokens and a number: how many of them the cache holds. To rewind is to lower the number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.errors import BackendMissing, ModelDamaged, ModelUnsupported
from foredraft_shared.interrupts import interrupts_wait
from foredraft_shared.messages import Position

from .text import CachedText

__all__ = ["GRAPH_VERSION", "METADATA", "OnnxDrafter"]

METADATA = "foredraft"
"""Key of the JSON in the ONNX file that says what the graph is; written by :mod:`foredraft_edge.drafters.export`."""
GRAPH_VERSION = 1
"""Counts up with every change to what the exporter writes; a file of another version is made anew, or refused."""
_FIRST_CAPACITY = 512
"""Tokens the cache has room for at first; it doubles when a text outgrows it."""


class OnnxDrafter(CachedText):
    """A decoder exported by :func:`~foredraft_edge.drafters.export.export_onnx`.

    Args:
        path: the ``.onnx`` file.
        threads: cores a step may use.
        chunk: rows read in one pass when a text is new; bounds the memory of the prefill.

    Raises:
        BackendMissing: onnxruntime is not installed.
        ModelDamaged: the file is none of ours, or broken.
        ModelUnsupported: it was exported by another version of foredraft.
    """

    def __init__(self, path: str | Path, *, threads: int = 1, chunk: int = 128) -> None:
        self._session = _open_session(Path(path), threads)
        facts = _facts(self._session, Path(path))
        tokens = facts.get("head_tokens")
        ids = None if tokens is None else np.asarray(tokens, np.int32)
        super().__init__(facts["fingerprint"], facts["context"], facts["vocabulary"], ids)
        self.layers: int = facts["layers"]
        self._heads, self._head_dim = facts["kv_heads"], facts["head_dim"]
        self._chunk = chunk
        # What every step reads and writes; bound once, changed in place.
        self._token = np.zeros((1, 1), np.int64)
        self._wanted = np.zeros(1, np.int64)
        self._last = np.zeros(1, np.int32)
        self._length = np.zeros((), np.int32)
        self._logits = np.zeros((1, 1, facts["head"]), np.float32)
        self._caches: list[NDArray[np.float32]] = []
        self._capacity = 0
        self._step: Any = None
        self._prefill: Any = None

    def close(self) -> None:
        """Free the session and the cache; the drafter cannot be used again."""
        super().close()
        self._step = self._prefill = self._session = None
        self._caches = []

    def _read(self, start: Position, stop: Position) -> NDArray[np.float32]:
        if stop > self._capacity:
            self._grow(stop, start)
        while stop - start > 1:
            end = min(start + self._chunk, stop)
            rows = np.array([self._text[start:end]], np.int64)
            self._prefill.bind_input("tokens", "cpu", 0, np.int64, rows.shape, rows.ctypes.data)
            self._run(self._prefill, end - start, end)
            start = end
        if start < stop:
            self._token[0, 0] = self._text[start]
            self._run(self._step, 1, stop)
        row: NDArray[np.float32] = self._logits[0, 0]
        return row

    def _run(self, binding: Any, rows: int, length: int) -> None:
        self._wanted[0] = rows - 1
        self._last[0] = length - 1
        self._length[...] = length
        self._session.run_with_iobinding(binding)

    def _grow(self, needed: int, cached: int) -> None:
        capacity = max(self._capacity, min(_FIRST_CAPACITY, self.context))
        while capacity < needed:
            capacity = min(2 * capacity, self.context)
        shape = (1, self._heads, capacity, self._head_dim)
        caches = [np.zeros(shape, np.float32) for _ in range(2 * self.layers)]
        for old, new in zip(self._caches, caches, strict=False):
            new[:, :, :cached] = old[:, :, :cached]
        self._caches, self._capacity = caches, capacity
        self._step, self._prefill = self._bind(), self._bind()
        self._step.bind_input("tokens", "cpu", 0, np.int64, (1, 1), self._token.ctypes.data)

    def _bind(self) -> Any:
        binding = self._session.io_binding()
        for name, array in (("wanted", self._wanted), ("last", self._last), ("length", self._length)):
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        binding.bind_output("logits", "cpu", 0, np.float32, self._logits.shape, self._logits.ctypes.data)
        for index, cache in enumerate(self._caches):
            name = f"{('key', 'value')[index % 2]}.{index // 2}"
            binding.bind_input(name, "cpu", 0, np.float32, cache.shape, cache.ctypes.data)
            binding.bind_output(f"{name}.out", "cpu", 0, np.float32, cache.shape, cache.ctypes.data)
        return binding


def _open_session(path: Path, threads: int) -> Any:
    try:
        with interrupts_wait():  # it would call Ctrl-C an ImportError
            import onnxruntime
    except ImportError:
        raise BackendMissing("The onnx drafter needs onnxruntime: pip install 'foredraft[edge]'.") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin between steps would take the core that the rest of the device, or the link, needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen private classes here
        reason = str(error).splitlines()[0]
        raise ModelDamaged(f"{path} cannot be loaded ({reason}); delete it to have it exported again.") from error


def _facts(session: Any, path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
    except (KeyError, ValueError):
        raise ModelDamaged(f"{path} was not exported by foredraft; give the model it was made from instead.") from None
    if facts.get("version") != GRAPH_VERSION:
        raise ModelUnsupported(f"{path} was exported by another version of foredraft; export it again.")
    return facts
