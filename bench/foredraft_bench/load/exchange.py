"""How simulated devices reach a target: a connection each to a server's process, or the engine called here and now."""

from __future__ import annotations

import math
import os
import time
import urllib.request
from collections.abc import Mapping
from typing import Protocol

import zmq
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from typing_extensions import Self

from foredraft_cloud.engine import Engine, EngineOptions
from foredraft_cloud.metrics import PREFIX, ServerCollector, registry_of
from foredraft_cloud.tally import Tally
from foredraft_cloud.target import Target
from foredraft_shared.clock import Clock, SystemClock
from foredraft_shared.errors import LinkLost
from foredraft_shared.messages import PROTOCOL_VERSION, CloudMessage, EdgeMessage, Failure, Hello, Welcome
from foredraft_shared.transports.base import Counters, edge_decode
from foredraft_shared.wire import Codec

__all__ = ["Exchange", "InProcess", "OverSockets"]

GREETING_S = 10.0
"""How long a server may take to greet everybody."""


class Exchange(Protocol):
    """Carries what devices, by number, say and hear."""

    def send(self, device: int, message: EdgeMessage) -> None:
        """Hand a message over; returns at once."""

    def wait(self, timeout_s: float) -> list[tuple[int, CloudMessage]]:
        """What has come for whom, as soon as there is something, and at the latest after ``timeout_s`` seconds."""

    def figures(self) -> Mapping[str, float]:
        """The server's own figures as of now: name without prefix, summed over labels."""

    def close(self) -> None:
        """Let go of it."""


class InProcess:
    """The engine alone: no sockets, no messages as bytes, no other thread.

    Args:
        clock: that the engine goes by, and whoever waits for it.
    """

    def __init__(
        self, target: Target, options: EngineOptions, *, model: str = "", dtype: str = "", clock: Clock | None = None
    ) -> None:
        self._clock = clock = clock or SystemClock()
        self._outbox: list[tuple[int, CloudMessage]] = []
        tally = Tally()
        self._engine = Engine(
            target,
            lambda peer, message: self._outbox.append((peer, message)),
            options,
            lambda: round(clock.now() * 1e9),
            observer=tally,
        )
        self._registry = registry_of(
            ServerCollector(
                tally,
                model=model,
                dtype=dtype,
                health=lambda: "ready",
                cache_usage=lambda: self._engine.cache_usage,
                statistics=self._engine.statistics,
                wire=Counters(),
            )
        )

    def send(self, device: int, message: EdgeMessage) -> None:
        """See :class:`Exchange`."""
        self._engine.receive(device, message)

    def wait(self, timeout_s: float) -> list[tuple[int, CloudMessage]]:
        """Do a pass, if anybody asked for one."""
        if not self._outbox and not self._engine.step():
            self._clock.sleep(max(0.0, min(timeout_s, 0.001)))
        heard, self._outbox = self._outbox, []
        return heard

    def figures(self) -> Mapping[str, float]:
        """See :class:`Exchange`."""
        return _figures(generate_latest(self._registry).decode())

    def close(self) -> None:
        """See :class:`Exchange`."""


class OverSockets:
    """A ZeroMQ connection for each device.

    Args:
        address: of the token plane.
        metrics: where the server's ``/metrics`` is.
        devices: how many connections.

    Raises:
        LinkLost: nobody answers at ``address``.
    """

    def __init__(self, address: str, metrics: str, devices: int) -> None:
        self._metrics = metrics
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, max(1024, 2 * devices))
        self._sockets: list[zmq.Socket[bytes]] = []
        self._codecs = [Codec() for _ in range(devices)]
        self._counters = Counters()
        self._poller = zmq.Poller()
        self._number: dict[zmq.Socket[bytes], int] = {}
        try:
            for number in range(devices):
                socket = self._context.socket(zmq.DEALER)
                socket.linger = 0
                socket.routing_id = b"\x01" + os.urandom(15)
                socket.connect(address)
                self._sockets.append(socket)
                self._number[socket] = number
                self._poller.register(socket, zmq.POLLIN)
            self._greet(address)
        except BaseException:
            self.close()
            raise

    def _greet(self, address: str) -> None:
        silent = set(range(len(self._sockets)))
        for number in silent:
            self.send(number, Hello(PROTOCOL_VERSION, "", "load"))
        deadline = time.monotonic() + GREETING_S
        while silent:
            if time.monotonic() > deadline:
                raise LinkLost(f"no answer from {address} within {GREETING_S:g} s; does the server run there?")
            for number, message in self.wait(0.1):
                if isinstance(message, Welcome):
                    silent.discard(number)
                elif isinstance(message, Failure):
                    raise LinkLost(f"{address} refuses the load: {message.message}")

    def send(self, device: int, message: EdgeMessage) -> None:
        """See :class:`Exchange`."""
        data = self._codecs[device].encode(message)
        self._sockets[device].send(data)
        self._counters.sent(len(data))

    def wait(self, timeout_s: float) -> list[tuple[int, CloudMessage]]:
        """See :class:`Exchange`."""
        heard: list[tuple[int, CloudMessage]] = []
        for socket, _ in self._poller.poll(math.ceil(max(0.0, timeout_s) * 1000.0)):
            assert isinstance(socket, zmq.Socket)
            number = self._number[socket]
            while int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                message = edge_decode(self._codecs[number], socket.recv(zmq.NOBLOCK), self._counters)
                if message is not None:
                    heard.append((number, message))
        return heard

    def figures(self) -> Mapping[str, float]:
        """See :class:`Exchange`."""
        with urllib.request.urlopen(f"{self._metrics}/metrics", timeout=30.0) as answer:  # noqa: S310 - of our own server
            return _figures(answer.read().decode())

    def close(self) -> None:
        """Close every connection."""
        for socket in self._sockets:
            socket.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _figures(text: str) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                name = sample.name.removeprefix(PREFIX)
                found[name] = found.get(name, 0.0) + sample.value
    return found
