"""The device's process of the fault matrix: writes texts when told to, and says when each token came.

Orders and reports are lines of JSON on standard input and output. An order is ``{"write": NAME, …}`` with the fields of
:class:`Order`; reports are ``{"text": NAME, "at": SECONDS, …}`` with a token, or the end of the text and why. Instants are
those of ``time.monotonic``, which all processes of a machine share. Each text has a thread and a client of its own.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from foredraft_bench.tethered import tie
from foredraft_bench.toy import ToyDrafter
from foredraft_edge.client import Client, RequestMode
from foredraft_edge.conversation import OnDisconnect
from foredraft_edge.drafters.base import Drafter
from foredraft_edge.drafters.loading import load_drafter
from foredraft_edge.options import LoopOptions
from foredraft_edge.stream import TokenEvent, TokenStream
from foredraft_shared.errors import DeadlineMissed, ForedraftError
from foredraft_shared.models import Tokenizer, open_model
from foredraft_shared.transports.base import Transport
from foredraft_shared.transports.faulty import Faults, FaultyTransport
from foredraft_shared.transports.zmq import ZmqTransport

from .server import TOY

__all__ = ["Order", "main"]

COUNTS = ("rounds", "chained", "chained_hits", "repeats", "resumes", "outages", "provisional", "revised")
"""What is reported of a text's :class:`~foredraft_edge.accounts.LoopStatistics`."""


@dataclass(frozen=True, slots=True)
class Order:
    """A text to be written."""

    write: str
    """Its name in reports."""
    address: str
    prompt: list[int]
    max_tokens: int
    mode: RequestMode = "speculate"
    window: int = 2
    """Rounds in flight at most."""
    draft_length: int | None = 4
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    pause_at: int | None = None
    """After so many verified tokens the caller is busy elsewhere…"""
    pause_s: float = 0.0
    """…for so long."""
    leave_at: int | None = None
    """After so many verified tokens the caller has seen enough."""
    faults: dict[str, Any] = field(default_factory=dict)
    """What befalls its messages: fields of :class:`~foredraft_shared.transports.faulty.Faults`."""
    faults_seed: int = 0
    routing_id: str = ""
    """By which ZeroMQ tells devices apart, in hexadecimal digits; by default one of its own."""
    timeout_s: float = 120.0
    """Silence after which the server is given up."""
    on_disconnect: OnDisconnect = "edge"
    save: str = ""
    """File to keep the text in."""
    resume: str = ""
    """File of the text to take up, instead of the prompt."""
    steps: int = 0
    """So many times a caller that cannot wait longer takes tokens; 0: it takes each as it comes…"""
    step_tokens: int = 4
    """…so many tokens at most…"""
    step_ms: float = 150.0
    """…and after so long what there is."""

    def __post_init__(self) -> None:
        assert self.mode in get_args(RequestMode)
        assert self.on_disconnect in get_args(OnDisconnect)


class _Edge:
    """What the texts of this process share: a tokenizer, and drafters that are not in use."""

    def __init__(self, draft: str, model: str) -> None:
        self._draft = draft
        self._model = model
        self._tokenizer: Tokenizer = open_model(model, offline=True).tokenizer
        self._idle: list[Drafter] = [self._load()]
        self._lock = threading.Lock()

    def write(self, order: Order) -> None:
        """Write one text and report it, whatever happens."""
        try:
            self._write(order)
        except ForedraftError as error:
            self._say(order, end=type(error).__name__, typed=True, message=str(error))
        except Exception as error:  # it is what the matrix is there to find
            self._say(order, end=type(error).__name__, typed=False, message=str(error))

    def _write(self, order: Order) -> None:
        drafter = self._borrow()
        transport: Transport = ZmqTransport(order.address, routing_id=bytes.fromhex(order.routing_id) or None)
        if order.faults:
            transport = FaultyTransport(transport, Faults(**order.faults), order.faults_seed)
        client = Client(order.address, drafter, tokenizer=self._tokenizer, transport=transport, connect_timeout_s=20.0)
        try:
            self._report(order, client)
        finally:
            transport.close()
            with self._lock:
                self._idle.append(drafter)  # closing the client would have closed it

    def _report(self, order: Order, client: Client) -> None:
        how: dict[str, Any] = {
            "mode": order.mode,
            "draft_length": order.draft_length,
            "options": LoopOptions(window=order.window, timeout_s=order.timeout_s),
            "on_disconnect": order.on_disconnect,
        }
        if order.resume:
            stream = client.resume(Path(order.resume), **how)
            self._say(order, restored=stream.restored, position=len(stream.prompt))
        else:
            stream = client.stream(
                order.prompt,
                max_tokens=order.max_tokens,
                temperature=order.temperature,
                top_p=order.top_p,
                seed=order.seed,
                stop_tokens=(),
                save=Path(order.save) if order.save else None,
                **how,
            )
        with closing(stream):
            self._step(order, stream) if order.steps else self._read(order, stream)
        self._say(order, end="", counts={name: getattr(stream.statistics, name) for name in COUNTS})

    def _read(self, order: Order, stream: TokenStream) -> None:
        """As somebody who reads a text while it is written."""
        verified = 0
        for event in stream:
            self._tell(order, event)
            if event.provisional:
                continue
            verified += 1
            if verified == order.pause_at:
                time.sleep(order.pause_s)
            if verified == order.leave_at:
                break

    def _step(self, order: Order, stream: TokenStream) -> None:
        """As a control loop that has to go on at a certain time."""
        for _ in range(order.steps):
            events: list[TokenEvent] = []
            began = time.perf_counter()
            with suppress(DeadlineMissed):  # nothing to act on: the loop goes on with what it was doing
                events = stream.take(order.step_tokens, order.step_ms)
            took_ms = (time.perf_counter() - began) * 1000.0
            alone = sum(event.provisional for event in events)
            self._say(order, step_ms=took_ms, edge=alone, target=len(events) - alone)
            for event in events:
                self._tell(order, event)
            if stream.finish:
                return

    def _tell(self, order: Order, event: TokenEvent) -> None:
        self._say(
            order,
            position=event.position,
            token=event.token,
            origin=event.origin,
            provisional=event.provisional,
            revised=event.revised,
        )

    def _say(self, order: Order, **what: Any) -> None:
        line = json.dumps({"text": order.write, "at": time.monotonic(), **what}) + "\n"
        os.write(1, line.encode())  # one call: lines of several threads do not mix

    def _borrow(self) -> Drafter:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._load()

    def _load(self) -> Drafter:
        if self._draft == TOY:
            return ToyDrafter(0.8)
        drafter, _ = load_drafter(self._draft, self._tokenizer, target=self._model, offline=True)
        return drafter


def main() -> int:
    """Obey orders until there are no more."""
    parent, cores, draft, model = sys.argv[1:]
    if not tie(parent, cores):
        return 1
    faulthandler.register(signal.SIGUSR2)  # says what each thread is doing, for whoever wonders why a text hangs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # our owner decides what Ctrl-C means
    edge = _Edge(draft, model)
    os.write(1, b"{}\n")  # ready
    for line in sys.stdin:
        threading.Thread(target=edge.write, args=(Order(**json.loads(line)),), daemon=True).start()
    return 0


if __name__ == "__main__":
    sys.exit(main())
