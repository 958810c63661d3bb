"""Drafting with llama.cpp, through the low-level face of llama-cpp-python (an optional extra).

Worth it where llama.cpp has kernels that onnxruntime has not: Apple's Metal, Vulkan, small ARM boards.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.errors import BackendMissing, ModelDamaged, ModelUnsupported
from foredraft_shared.messages import Position

from .text import CachedText

try:
    import llama_cpp
except ImportError:
    raise BackendMissing("The llama drafter needs llama-cpp-python: pip install 'foredraft[llama]'.") from None

__all__ = ["LlamaDrafter"]


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _silent(level: int, text: bytes, data: Any) -> None:
    """llama.cpp tells its whole life on stderr; errors come back as return values anyway."""


class LlamaDrafter(CachedText):
    """A GGUF file run by llama.cpp.

    Args:
        path: the GGUF file.
        fingerprint: of the tokenizer the model speaks.
        threads: cores a step may use.
        context: longest text in tokens; llama.cpp allocates its cache for all of it at once.
        chunk: rows read in one pass when a text is new.
        gpu_layers: how many layers to put on a GPU, where llama.cpp was built for one.

    Raises:
        ModelUnsupported: ``path`` is no GGUF file.
        ModelDamaged: llama.cpp cannot load it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fingerprint: str = "",
        threads: int = 1,
        context: int = 4096,
        chunk: int = 128,
        gpu_layers: int = 0,
    ) -> None:
        self._model: Any = None
        self._context: Any = None
        if not Path(path).is_file():
            raise ModelUnsupported(f"{path} is no GGUF file, and llama.cpp reads no others; use the onnx drafter.")
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = gpu_layers
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            raise ModelDamaged(f"{path} cannot be loaded by llama.cpp; fetch it again, or use the onnx drafter.")
        context_params = llama_cpp.llama_context_default_params()
        context_params.n_ctx = min(context, llama_cpp.llama_model_n_ctx_train(self._model))
        context_params.n_batch = context_params.n_ubatch = chunk
        context_params.n_threads = context_params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, context_params)
        if not self._context:
            self._free()
            raise ModelDamaged(f"llama.cpp cannot make room for {path}; give a shorter context.")
        rows = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        # The rows are padded by llama.cpp; what was asked for is what a text may have.
        super().__init__(fingerprint, context_params.n_ctx, rows)
        self._chunk = chunk
        self._memory = llama_cpp.llama_get_memory(self._context)

    def close(self) -> None:
        """Free model and cache; the drafter cannot be used again."""
        self._text = []
        self._free()

    def _free(self) -> None:
        if self._context:
            llama_cpp.llama_free(self._context)
        if self._model:
            llama_cpp.llama_model_free(self._model)
        self._context = self._model = None

    def _drop(self, length: Position) -> None:
        if length < self._cached and not llama_cpp.llama_memory_seq_rm(self._memory, 0, length, -1):
            # Recurrent and sliding-window memories cannot lose just their end: read the text again.
            llama_cpp.llama_memory_clear(self._memory, False)
            self._cached = 0
        self._cached = min(self._cached, length)

    def _read(self, start: Position, stop: Position) -> NDArray[np.float32]:
        start = min(start, self._cached)  # the memory may have lost more than it was asked to
        while start < stop:
            part = self._text[start : min(start + self._chunk, stop)]
            tokens = (llama_cpp.llama_token * len(part))(*part)
            status = llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(tokens, len(part)))
            if status != 0:
                # Whatever it kept is unknown: begin anew next time.
                llama_cpp.llama_memory_clear(self._memory, False)
                self._cached = 0
                raise ModelDamaged(
                    f"llama.cpp failed to read {len(part)} tokens (code {status}); use the onnx drafter."
                )
            start += len(part)
            self._cached = start
        pointer = llama_cpp.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(pointer, shape=(self._input_ids,))
