"""The real model behind real servers: what the tests of the law and of failures stand on.

A :class:`Service` is a server in threads of this process, reached over memory, ZeroMQ, or ZeroMQ through a jittery link.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from foredraft_cloud.engine import EngineOptions
from foredraft_cloud.observer import Observer
from foredraft_cloud.server import Server
from foredraft_cloud.target import Run, Slot, Target
from foredraft_shared.messages import SamplingParams, TokenId
from foredraft_shared.transports.base import Listener, Transport
from foredraft_shared.transports.link import LinkEmulator
from foredraft_shared.transports.memory import MemoryNetwork
from foredraft_shared.transports.zmq import ZmqListener, ZmqTransport

__all__ = ["TRANSPORTS", "Service", "continuations", "prompts", "serving"]

TRANSPORTS = ("memory", "zmq", "jitter")
JITTERY = {"rtt_ms": 6.0, "jitter_ms": 3.0}


def prompts() -> list[str]:
    """Twenty beginnings of texts: questions, code, lists, other languages, one letter, a paragraph."""
    lines = (Path(__file__).parent / "data" / "prompts.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def continuations(
    target: Target, texts: Sequence[tuple[Sequence[TokenId], SamplingParams]], count: int
) -> list[tuple[TokenId, ...]]:
    """What the target says after each prompt: no engine, no draft, a token a pass, all texts side by side."""
    slots: list[Slot] = []
    written = [list(prompt) for prompt, _ in texts]
    for prompt, _ in texts:
        slot = target.open()
        slots.append(slot)
        if len(prompt) > 1:
            target.verify([Run(slot, tuple(prompt[:-1]), 0)], exits=False).step()
    for _ in range(count):
        runs = [Run(slot, (text[-1],), 1) for slot, text in zip(slots, written, strict=True)]
        for text, logits, (_, params) in zip(
            written, target.verify(runs, exits=False).step().logits, texts, strict=True
        ):
            assert logits is not None
            text.append(logits.pick(0, params, len(text)))
    for slot in slots:
        target.release(slot)
    return [tuple(text[len(prompt) :]) for text, (prompt, _) in zip(written, texts, strict=True)]


class Service:
    """A running server, and how to reach it."""

    def __init__(self, server: Server, connect: Callable[[], Transport], address: str, ended: threading.Event) -> None:
        self.server = server
        self.connect = connect
        """A new device's transport."""
        self.address = address
        self.ended = ended
        """Set once ``serve`` has returned."""


@contextmanager
def serving(
    target: Target,
    transport: str = "zmq",
    *,
    fingerprint: str = "",
    model: str = "smollm2-135m",
    bind: str = "tcp://127.0.0.1:0",
    options: EngineOptions | None = None,
    observer: Observer | None = None,
) -> Iterator[Service]:
    """A server of ``target`` in threads, stopped at the end; an error of its threads is raised there."""
    network = MemoryNetwork()
    listener: Listener = network.listen() if transport == "memory" else ZmqListener(bind)
    server = Server(target, listener, model=model, fingerprint=fingerprint, options=options, observer=observer)
    failures: list[BaseException] = []
    ended = threading.Event()

    def serve() -> None:
        try:
            server.serve()
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=serve, name="test-server")
    thread.start()
    address = listener.address
    link = LinkEmulator(address, **JITTERY) if transport == "jitter" else None
    if link is not None:
        address = link.address
    try:
        connect = network.connect if transport == "memory" else lambda: ZmqTransport(address)
        yield Service(server, connect, address, ended)
    finally:
        server.stop()
        thread.join(15.0)
        if link is not None:
            link.close()
        assert not thread.is_alive(), "the server does not stop"
        if failures:
            raise failures[0]
