"""The server's process of the fault matrix: ``foredraft serve``, or a toy target, which can be told to stop thinking.

``python -m foredraft_bench.faults.server PARENT CORES serve MODEL OPTION…`` is ``foredraft serve MODEL OPTION…`` with one
thing more: on SIGUSR1 it holds Python's global lock for :data:`HOLD_S`, as a library does that forgets to let go of it.
ZeroMQ's own threads go on and answer its heartbeats meanwhile; nothing of ours does.

The model ``toy`` is the toy target: its text costs nothing, and a pass takes as long as it is told to.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from foredraft_bench.tethered import tie
from foredraft_bench.toy import VOCABULARY
from foredraft_cloud.target import Run
from foredraft_cloud.toy import ToyPass, ToyTarget

__all__ = ["HOLD_ENVIRONMENT", "TOKENIZER", "TOY", "main"]

TOY = "toy"
"""The name of the toy target."""
TOKENIZER = "smollm2-135m"
"""Whose tokenizer the toy claims to have: its tokens are that one's first."""
HOLD_ENVIRONMENT = "FOREDRAFT_FAULTS_HOLD_S"
"""The variable that says for how many seconds SIGUSR1 stops everything."""


class TimedToyTarget(ToyTarget):
    """A toy whose pass takes a while, so that something can happen in the middle of a text."""

    def __init__(self, pass_s: float, pages: int) -> None:
        super().__init__(vocabulary=VOCABULARY, pages=pages)
        self._pass_s = pass_s

    def verify(self, batch: Sequence[Run], *, exits: bool = True) -> ToyPass:
        """As the toy does, after ``pass_s`` seconds."""
        time.sleep(self._pass_s)
        return super().verify(batch, exits=exits)


def _hold_the_lock(number: int, frame: FrameType | None) -> None:
    microseconds = int(float(os.environ.get(HOLD_ENVIRONMENT, "5")) * 1e6)
    deadline = time.monotonic() + microseconds / 1e6
    while (left := deadline - time.monotonic()) > 0:
        # PyDLL, unlike CDLL, does not let go of the lock; usleep takes less than a second.
        ctypes.PyDLL(None).usleep(ctypes.c_uint(min(900_000, max(1, int(left * 1e6)))))


def _serve_toy(arguments: Sequence[str]) -> int:
    from foredraft_cloud.engine import EngineOptions
    from foredraft_cloud.server import Server
    from foredraft_shared.models import open_model
    from foredraft_shared.transports.zmq import ZmqListener

    parser = argparse.ArgumentParser()
    parser.add_argument("--bind", default="tcp://127.0.0.1:0")
    parser.add_argument("--ready-file", type=Path, required=True)
    parser.add_argument("--max-sessions", type=int, default=16)
    parser.add_argument("--pages", type=int, default=1024)
    parser.add_argument("--pass-ms", type=float, default=8.0)
    wanted = parser.parse_args(arguments)
    listener = ZmqListener(wanted.bind)
    server = Server(
        TimedToyTarget(wanted.pass_ms / 1000, wanted.pages),
        listener,
        model=TOKENIZER,
        fingerprint=open_model(TOKENIZER, offline=True).tokenizer.fingerprint,
        options=EngineOptions(max_sessions=wanted.max_sessions),
    )
    signal.signal(signal.SIGINT, lambda *_: server.stop())
    signal.signal(signal.SIGTERM, lambda *_: server.drain(10.0))
    partial = wanted.ready_file.with_name(f"{wanted.ready_file.name}.partial")
    partial.write_text(json.dumps({"address": listener.address}))
    partial.replace(wanted.ready_file)
    server.serve()
    return 0


def main() -> int:
    """Serve until told to stop."""
    parent, cores, *arguments = sys.argv[1:]
    if not tie(parent, cores):
        return 1
    signal.signal(signal.SIGUSR1, _hold_the_lock)
    if arguments[:2] == ["serve", TOY]:
        return _serve_toy(arguments[2:])
    from foredraft_shared.command import main as foredraft

    return foredraft(arguments)


if __name__ == "__main__":
    sys.exit(main())
