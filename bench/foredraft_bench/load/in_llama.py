"""llama.cpp's own continuous batching, in this process: what its server does, without the server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foredraft_shared.errors import BackendMissing, ModelDamaged

from ..processes import Cores, pin
from .device import KnownText

__all__ = ["InLlama"]


@dataclass(slots=True)
class _Seat:
    """A text that is being written, and its sequence in the cache."""

    sequence: int
    fresh: Sequence[int]
    """What the next pass reads: the prompt, then one token at a time."""
    length: int = 0
    """Tokens in the cache."""
    written: int = 0


class InLlama:
    """llama.cpp through llama-cpp-python (an optional extra): every pass reads the prompts of texts that begin and a token of
    each of the others. Greedy, without speculation, all texts to their full length.

    Args:
        gguf: the model's file.
        context: longest text in tokens.

    Raises:
        BackendMissing: it is not installed, or there is no GGUF file of the model.
        ModelDamaged: llama.cpp cannot load the file.
    """

    name = "llama.cpp, continuous batching"

    def __init__(self, gguf: Path | None, threads: int, sessions: int, context: int, cores: Cores) -> None:
        try:
            import llama_cpp
        except ImportError:
            raise BackendMissing(
                "neither llama-server nor llama-cpp-python is installed; install one of them."
            ) from None
        if gguf is None or gguf.suffix != ".gguf":
            raise BackendMissing("llama.cpp reads GGUF files only, and this model is none.")
        self._llama: Any = llama_cpp
        self._silent = llama_cpp.llama_log_callback(lambda level, text, data: None)  # it tells its whole life on stderr
        llama_cpp.llama_log_set(self._silent, None)
        self._cores = cores
        self._room = max(2048, context)
        """Tokens of a pass."""
        self._model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise ModelDamaged(f"{gguf} cannot be loaded by llama.cpp; fetch it again.")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = sessions * (-(-context // 256) * 256), sessions
        params.n_batch = self._room
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            llama_cpp.llama_model_free(self._model)
            raise ModelDamaged(f"llama.cpp cannot make room for {sessions} texts of {gguf}; ask for fewer.")
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(self._room, 0, 1)

    def tokens_per_second(self, texts: Sequence[KnownText], sessions: int, seconds: float) -> float:
        """Of whole texts, so many at once, one begun where one ends, for at least so long; prompts are read in that time, too."""
        pin(0, self._cores.cloud)
        try:
            self._write(texts, sessions, 0.0, whole=False)
            began = time.perf_counter()
            written = self._write(texts, sessions, seconds)
            return written / (time.perf_counter() - began)
        finally:
            pin(0, self._cores.edge)

    def _write(self, texts: Sequence[KnownText], sessions: int, seconds: float, *, whole: bool = True) -> int:
        llama = self._llama
        memory = llama.llama_get_memory(self._context)
        llama.llama_memory_clear(memory, False)
        began, begun, total = time.perf_counter(), sessions, 0
        seats = [_Seat(number, texts[number % len(texts)].prompt) for number in range(sessions)]
        while True:
            seated = self._pass(seats)
            total += len(seated)
            if not whole:
                return total
            ended = [seat for seat in seated if seat.written == texts[0].max_tokens]
            for seat in ended:
                llama.llama_memory_seq_rm(memory, seat.sequence, -1, -1)
                seat.fresh, seat.length, seat.written = texts[begun % len(texts)].prompt, 0, 0
                begun += 1
            # Stopped in the middle, more prompts than their share would have been read.
            if ended and begun % sessions == 0 and time.perf_counter() - began >= seconds:
                return total

    def _pass(self, seats: Sequence[_Seat]) -> list[_Seat]:
        """One token for each of those that fit."""
        batch, taken, rows = self._batch, list[_Seat](), list[int]()
        count = 0
        for seat in seats:
            if count + len(seat.fresh) > self._room:
                break
            for offset, token in enumerate(seat.fresh):
                batch.token[count], batch.pos[count] = token, seat.length + offset
                batch.n_seq_id[count], batch.seq_id[count][0] = 1, seat.sequence
                batch.logits[count] = offset == len(seat.fresh) - 1
                count += 1
            taken.append(seat)
            rows.append(count - 1)
        batch.n_tokens = count
        status = self._llama.llama_decode(self._context, batch)
        if status != 0:
            raise ModelDamaged(f"llama.cpp failed to read {count} tokens (code {status}); ask for fewer sessions.")
        for seat, row in zip(taken, rows, strict=True):
            pointer = self._llama.llama_get_logits_ith(self._context, row)
            token = int(np.ctypeslib.as_array(pointer, shape=(self._vocabulary,)).argmax())
            seat.length += len(seat.fresh)
            seat.fresh = (token,)
            seat.written += 1
        return taken

    def close(self) -> None:
        """Free model and cache."""
        self._llama.llama_batch_free(self._batch)
        self._llama.llama_free(self._context)
        self._llama.llama_model_free(self._model)
