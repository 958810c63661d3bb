"""A peer as a mode: a process of its own on the target's cores, asked for one text after another."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any

from foredraft_shared.errors import LinkError
from foredraft_shared.traces import TraceWriter

from ..metrics import Answer
from ..processes import stop
from .engines import Order, Set

if TYPE_CHECKING:
    from ..modes import Place, Task, Watcher

__all__ = ["PEERS", "PeerMode"]


@dataclass(slots=True)
class _Program:
    """One that runs."""

    given: Set
    process: subprocess.Popen[str]
    said: IO[str]
    """What it wrote beside its answers."""

    def heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            told: dict[str, Any] = json.loads(line)
            return told
        self.process.wait()
        self.said.seek(0)
        lines = [each.strip() for each in self.said if each.strip()]
        last = (lines[-1] if lines else f"status {self.process.returncode}").rstrip(".")
        raise LinkError(f"the process of {self.given.engine} ended: {last}; leave its modes out with --modes.")

    def close(self) -> None:
        stop(self.process)
        for pipe in (self.process.stdin, self.process.stdout, self.said):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # an order that it did not live to read
                    pipe.close()


@dataclass(slots=True)
class PeerMode:
    """Another program, with the models of the run."""

    name: str
    title: str
    label: str
    engine: str
    drafts: bool
    _program: _Program | None = field(default=None, repr=False)

    @property
    def process_id(self) -> int | None:
        """Of its process, while there is one."""
        return self._program.process.pid if self._program is not None else None

    @property
    def lossless(self) -> bool:
        """Not held against our tokens: other kernels round differently, and so may part from them."""
        return False

    def unavailable(self, place: Place) -> str:
        """See :class:`~foredraft_bench.modes.Mode`; starts the program to find out."""
        given = Set(
            engine=self.engine,
            target=place.target,
            draft=place.draft if self.drafts else "",
            dtype=place.dtype,
            longest=place.longest,
            offline=place.offline,
        )
        if self.drafts and place.client.drafter is None:
            return "there is no draft model; name one with --draft"
        self.close()
        self._program = _start(given, place.cores)
        try:
            error: str = self._program.heard().get("error", "")
        except LinkError as failure:
            error = str(failure)
        if error:
            self.close()
        return " ".join(error.split()).rstrip(".")

    def answer(
        self, place: Place, task: Task, *, watcher: Watcher | None = None, trace: TraceWriter | None = None
    ) -> Answer:
        """See :class:`~foredraft_bench.modes.Mode`; the instants are those of its own process, from the order on."""
        assert self._program is not None, "unavailable() starts it"
        process = self._program.process
        assert process.stdin is not None
        stops = () if task.past_the_end else place.client.tokenizer.stop_tokens
        sampling = task.sampling
        order = Order(
            list(task.prompt), task.max_tokens, list(stops), sampling.temperature, sampling.top_p, sampling.seed
        )
        try:
            process.stdin.write(json.dumps(asdict(order)) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said last is heard below
        told = self._program.heard()
        tokens = tuple(told["tokens"])
        finish = "stop" if tokens and tokens[-1] in stops else "length"
        return Answer(tokens, tuple(told["arrived_ms"]), finish=finish)

    def close(self) -> None:
        """Stop the program; may be called twice."""
        if self._program is not None:
            self._program.close()
            self._program = None


def _start(given: Set, cores: tuple[int, ...]) -> _Program:
    said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed with the process
    tether = [str(os.getpid()), ",".join(map(str, cores))]
    process = subprocess.Popen(
        [sys.executable, "-m", "foredraft_bench.peers.program", *tether, json.dumps(asdict(given))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # Ctrl-C is for us; we stop it in our own order
    )
    return _Program(given, process, said)


PEERS: Mapping[str, PeerMode] = MappingProxyType(
    {
        mode.name: mode
        for mode in (
            PeerMode("transformers", "transformers, the target alone", "transformers", "transformers", False),
            PeerMode("assisted", "transformers, assisted generation", "transformers, assisted", "transformers", True),
            PeerMode("llama.cpp", "llama.cpp, the target alone", "llama.cpp", "llama.cpp", False),
            PeerMode("llama.cpp-draft", "llama.cpp with a draft model", "llama.cpp, drafting", "llama.cpp", True),
        )
    }
)
"""With both models in one machine, on the target's cores, and without a network: each starts its process in
:meth:`PeerMode.unavailable` and ends it in :meth:`PeerMode.close`."""
