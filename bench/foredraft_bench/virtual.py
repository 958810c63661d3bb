"""A device, a link and a cloud in virtual time: the real round loop and the real engine around models
that only take time (:mod:`.virtual_models`).

Nothing here decides anything. The loop, its planner, the ledgers, the wire format and the engine are the product's own;
what is made up is how long things take, and whether the drafter is right. The clock counts nanoseconds and jumps from one
event to the next, so a run is the same every time and costs only what the loop and the engine themselves cost.

The cloud works as :mod:`foredraft_cloud.server` does: what arrives during a pass waits for its end. A pass is computed at
its first instant, which changes nothing, since nothing that comes later can enter it.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from foredraft_cloud.engine import Engine, EngineOptions
from foredraft_shared.messages import CloudMessage, EdgeMessage, Hello, Ping, Pong
from foredraft_shared.transports.base import Counters, frame_bytes
from foredraft_shared.transports.recording import LinkRecording
from foredraft_shared.transports.relay import LinkSettings
from foredraft_shared.wire import Codec, NoChannelError

from .virtual_models import Times, VirtualTarget

__all__ = ["World", "begins_s"]

_SPIN = 10_000
"""Looks at the link without any time passing, after which a run is taken to hang."""
_MS = 1_000_000
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def begins_s(link: LinkSettings | LinkRecording, seed: int) -> float:
    """When in a recording a text begins: seed 0 with it, the next ones spread evenly over it, the same in every mode."""
    return (seed * _GOLDEN) % 1.0 * link.length_s if isinstance(link, LinkRecording) else 0.0


# --- the link


class _Direction:
    """One way of the link: as :mod:`foredraft_shared.transports.relay` says."""

    def __init__(self, link: LinkSettings | LinkRecording, seed: int, *, up: bool) -> None:
        self._link = link
        self._up = up
        self._began_s = begins_s(link, seed)
        self._random = random.Random(f"{seed} {'up' if up else 'down'}")
        self._free_ns = 0.0
        self._due_ns = 0

    def due_ns(self, now_ns: int, size: int, stalled_until_ns: Callable[[float], float]) -> int:
        link = self._link.at(self._began_s + now_ns / 1e9) if isinstance(self._link, LinkRecording) else self._link
        rate_mbps = link.rate(up=self._up)
        occupied_ns = size * 8e3 / rate_mbps if rate_mbps else 0.0
        self._free_ns = max(now_ns, self._free_ns) + occupied_ns
        delay_ms = link.delay_ms(up=self._up) + self._random.uniform(-link.jitter_ms, link.jitter_ms) / 2.0
        due = stalled_until_ns(self._free_ns + max(0.0, delay_ms) * _MS)
        self._due_ns = max(self._due_ns, round(due))
        return self._due_ns


class _Stalls:
    """Stretches of time in which nothing arrives."""

    def __init__(self, link: LinkSettings | LinkRecording, seed: int) -> None:
        settings = link.at(0.0) if isinstance(link, LinkRecording) else link
        self._every_ns = settings.stall_every_s * 1e9
        self._length_ns = settings.stall_ms * _MS
        self._random = random.Random(f"{seed} stalls")
        self._begun: list[float] = []

    def until(self, due_ns: float) -> float:
        """When what is due then arrives."""
        if not self._every_ns:
            return due_ns
        while not self._begun or self._begun[-1] <= due_ns:
            last = self._begun[-1] if self._begun else 0.0
            self._begun.append(last + self._random.expovariate(1.0 / self._every_ns))
        for begun in self._begun:
            if begun <= due_ns < begun + self._length_ns:
                due_ns = begun + self._length_ns
        return due_ns


class VirtualTransport:
    """The device's end of the link."""

    def __init__(self, world: World) -> None:
        self.counters = Counters()
        self.inbox: deque[bytes] = deque()
        self.codec = Codec()
        self._world = world
        self._looked_at = -1
        self._looks = 0

    def ready(self, timeout_s: float) -> bool:
        return True

    def send(self, message: EdgeMessage) -> None:
        data = self.codec.encode(message)
        self.counters.sent(len(data))
        self._world.to_cloud(data)

    def receive(self, timeout_s: float) -> CloudMessage | None:
        world = self._world
        self._looks = self._looks + 1 if world.device_ns == self._looked_at else 0
        self._looked_at = world.device_ns
        assert self._looks < _SPIN, f"nothing happens any more, yet nobody waits, at {world.device_ns} ns"
        deadline_ns = world.device_ns + round(timeout_s * 1e9)
        while True:
            world.happen()
            if self.inbox:
                data = self.inbox.popleft()
                self.counters.received(len(data))
                message = self.codec.decode(data)
                assert isinstance(message, CloudMessage)
                return message
            following = world.next_ns()
            if following is None or following > deadline_ns:
                world.device_ns = max(world.device_ns, deadline_ns)
                return None
            world.device_ns = following

    def reconnect(self) -> None:
        pass  # this link does not break

    def close(self) -> None:
        pass


# --- the cloud


@dataclass(order=True, slots=True)
class _Event:
    at_ns: int
    serial: int
    kind: str = field(compare=False)
    """``"up"``: bytes reach the cloud; ``"out"``: they leave it; ``"down"``: they reach the device; ``"free"``: a pass has
    ended."""
    data: bytes = field(compare=False, default=b"")


class World:
    """One device, one link, one cloud.

    Args:
        link: settings of the emulator (:mod:`foredraft_shared.transports.profiles` has some with names), or a recording;
            their own seed plays no part.
        seed: of jitter and stalls, of where a recording begins, of the passes' spread and of the exits.
    """

    def __init__(self, link: LinkSettings | LinkRecording, times: Times, *, seed: int = 0) -> None:
        self.times = times
        self.seed = seed
        self.dice = random.Random(f"{seed} passes")
        self.device_ns = 0
        """The device's instant: the present."""
        self.cloud_ns = 0
        """The cloud's instant: it computes at the beginning of a pass what it says until the pass's end."""
        self.drafted_ns = 0
        """How long the device has drafted in all."""
        self.transport = VirtualTransport(self)
        self.passes = 0
        self.computed_ns = 0
        self._events: list[_Event] = []
        self._serial = itertools.count()
        self._up = _Direction(link, seed, up=True)
        self._down = _Direction(link, seed, up=False)
        self._stalls = _Stalls(link, seed)
        self._codec = Codec()
        self._inbox: list[tuple[EdgeMessage, int]] = []
        self._busy = False
        self._engine = Engine(VirtualTarget(self), self._answer, EngineOptions(), lambda: self.cloud_ns)

    def now_ns(self) -> int:
        return self.device_ns

    # --- for the transport

    def to_cloud(self, data: bytes) -> None:
        self.happen()
        self._push(self._up.due_ns(self.device_ns, frame_bytes(len(data)), self._stalls.until), "up", data)

    def next_ns(self) -> int | None:
        """When something happens next."""
        return self._events[0].at_ns if self._events else None

    def happen(self) -> None:
        """Let happen, in order, what has happened until now."""
        while self._events and self._events[0].at_ns <= self.device_ns:
            event = heapq.heappop(self._events)
            if event.kind == "down":
                self.transport.inbox.append(event.data)
                continue
            if event.kind == "out":
                due_ns = self._down.due_ns(event.at_ns, frame_bytes(len(event.data)), self._stalls.until)
                self._push(due_ns, "down", event.data)
                continue
            if event.kind == "up":
                self._take(event)
            else:
                self._busy = False
            if not self._busy:
                self._work(event.at_ns)

    # --- the cloud

    def _take(self, event: _Event) -> None:
        """What concerns no session is answered by the cloud's other thread, whatever the model is doing."""
        message = self._codec.decode(event.data)
        assert isinstance(message, EdgeMessage)
        if isinstance(message, Ping):
            self._push(event.at_ns, "out", self._codec.encode(Pong(message.nonce)))
        elif not isinstance(message, Hello):
            self._inbox.append((message, event.at_ns))

    def _work(self, at_ns: int) -> None:
        """The cloud is free: read what has come, and begin a pass if anybody waits for one."""
        self.cloud_ns = at_ns
        for message, arrived_ns in self._inbox:
            self._engine.receive("device", message, arrived_ns)
        self._inbox.clear()
        if self._engine.step():
            self.passes += 1
            self.computed_ns += self.cloud_ns - at_ns
            self._busy = True
            self._push(self.cloud_ns + round(self.times.between_ms * _MS), "free")

    def _answer(self, peer: object, message: CloudMessage) -> None:
        try:
            data = self._codec.encode(message)
        except NoChannelError:
            return  # the device has closed the session
        self._push(self.cloud_ns, "out", data)

    def _push(self, at_ns: int, kind: str, data: bytes = b"") -> None:
        assert math.isfinite(at_ns)
        heapq.heappush(self._events, _Event(at_ns, next(self._serial), kind, data))
