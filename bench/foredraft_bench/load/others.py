"""Other servers' throughput on the same prompts: transformers, batch by batch, and llama.cpp's server, all at once."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from foredraft_shared.errors import BackendMissing, LinkError
from foredraft_shared.models import Model

from ..in_transformers import in_transformers
from ..processes import Cores, pin, stop
from .device import KnownText

__all__ = ["InLlamaServer", "InTransformers"]

_START_S = 120.0


class InTransformers:
    """``generate`` on a whole batch at once, in this process.

    Every text of a batch begins and ends with the others: there is no continuous batching to be had there. What it would
    say is not compared with ours: its arithmetic is not the same in every batch.

    Raises:
        BackendMissing, ModelUnsupported: see :func:`~foredraft_bench.in_transformers.in_transformers`.
    """

    name = "transformers, batched generate"

    def __init__(self, model: Model, dtype: str, threads: int, cores: Cores) -> None:
        import torch

        self._torch = torch
        self._threads = threads
        self._cores = cores
        self._theirs = in_transformers(model, torch.float32 if dtype == "float32" else torch.bfloat16)

    def tokens_per_second(self, texts: Sequence[KnownText], sessions: int, seconds: float) -> float:
        """Of batches of ``sessions`` texts, one after another, for at least so long; prompts are read in that time, too."""
        torch = self._torch
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        pin(0, self._cores.cloud)
        try:
            self._generate(texts, sessions, 2)
            written, began = 0, time.perf_counter()
            while (spent := time.perf_counter() - began) < seconds:
                written += self._generate(texts, sessions, texts[0].max_tokens)
            return written / spent
        finally:
            pin(0, self._cores.edge)
            torch.set_num_threads(before)

    def _generate(self, texts: Sequence[KnownText], sessions: int, count: int) -> int:
        torch = self._torch
        prompts = [texts[index % len(texts)].prompt for index in range(sessions)]
        longest = max(map(len, prompts))
        tokens = torch.tensor([(0,) * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.inference_mode():
            given: Any = self._theirs.generate(
                tokens, attention_mask=mask, do_sample=False, max_new_tokens=count, min_new_tokens=count, pad_token_id=0
            )
        return int(given.shape[0] * (given.shape[1] - longest))

    def close(self) -> None:
        """Let go of the weights."""
        del self._theirs


class InLlamaServer:
    """``llama-server`` with continuous batching, as a process of its own; greedy, without speculation.

    Args:
        gguf: the model's file.

    Raises:
        BackendMissing: it is not installed, or there is no GGUF file of the model.
        LinkError: it does not start.
    """

    name = "llama.cpp's server"

    def __init__(self, gguf: Path | None, threads: int, sessions: int, context: int, cores: Cores) -> None:
        program = shutil.which("llama-server")
        if program is None:
            raise BackendMissing("llama-server is not installed; build llama.cpp and put it on the PATH.")
        if gguf is None or gguf.suffix != ".gguf":
            raise BackendMissing("llama-server reads GGUF files only, and this model is none.")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        options = ["--host", "127.0.0.1", "--port", str(port), "--threads", str(threads)]
        options += ["--parallel", str(sessions), "--ctx-size", str(sessions * context), "--model", str(gguf)]
        self._process = subprocess.Popen(
            [program, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        pin(self._process.pid, cores.cloud)
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise LinkError(
                    f"llama-server ended with status {self._process.returncode}; run it by itself to see why."
                )
            try:
                with urllib.request.urlopen(f"{self._url}/health", timeout=2.0):  # noqa: S310 - of our own process
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise LinkError(f"llama-server was not ready within {_START_S:.0f} s.")

    def tokens_per_second(self, texts: Sequence[KnownText], sessions: int, seconds: float) -> float:
        """Of ``sessions`` clients that ask for one text after another, for at least so long."""
        with ThreadPoolExecutor(sessions) as clients:
            self._ask(texts[0], 2)
            began = time.perf_counter()

            def write(number: int) -> int:
                written = 0
                while time.perf_counter() - began < seconds:
                    written += self._ask(texts[(number + written) % len(texts)], texts[0].max_tokens)
                return written

            total = sum(clients.map(write, range(sessions)))
            return total / (time.perf_counter() - began)

    def _ask(self, text: KnownText, count: int) -> int:
        body = {
            "prompt": list(text.prompt),
            "n_predict": count,
            "temperature": 0.0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        request = urllib.request.Request(  # noqa: S310
            f"{self._url}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300.0) as answer:  # noqa: S310
            return int(json.load(answer)["tokens_predicted"])

    def close(self) -> None:
        """Stop it."""
        stop(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
