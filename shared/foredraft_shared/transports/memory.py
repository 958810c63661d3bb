"""A network inside one process: real bytes, no sockets.

Many edges reach one listener. Everything passes through the codec, so what works here works on the wire.

With threads, ``receive`` blocks as on a socket. Without, give a :class:`ManualClock` and a ``while_waiting`` function:
an edge that has nothing to read calls it (it lets the server take a step and says whether that did anything), and only
when nothing is left to do does the clock jump. A whole distributed run is then one deterministic function call.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable

from ..clock import Clock, ManualClock, SystemClock
from ..errors import LinkLost
from ..messages import CloudMessage, EdgeMessage
from ..wire import Codec
from .base import Counters, Peer, edge_decode
from .cloud_end import CloudEnd

__all__ = ["MemoryListener", "MemoryNetwork", "MemoryTransport"]


class MemoryNetwork:
    """Makes one listener and any number of edges connected to it.

    Args:
        clock: a :class:`ManualClock` makes every wait a jump (single-threaded use); default is real time.
        while_waiting: called when a transport waits; True if it did something, so that looking again makes sense.
        capacity: how many messages a direction of a connection holds before ``send`` fails.
    """

    def __init__(
        self, clock: Clock | None = None, while_waiting: Callable[[], bool] | None = None, capacity: int = 256
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.while_waiting = while_waiting
        self.capacity = capacity
        self._changed = threading.Condition()
        self._names = itertools.count(1)
        self._listener: MemoryListener | None = None
        self._edges: dict[Peer, MemoryTransport] = {}

    def listen(self) -> MemoryListener:
        """A listener; one that was made before is cut off from its edges, as when a server restarts."""
        with self._changed:
            if self._listener is not None:
                self._listener.closed = True
            self._listener = MemoryListener(self)
            self._changed.notify_all()
            return self._listener

    def connect(self) -> MemoryTransport:
        """An edge; it need not wait for :meth:`listen`."""
        with self._changed:
            peer = Peer(b"edge-%d" % next(self._names))
            self._edges[peer] = MemoryTransport(self, peer)
            return self._edges[peer]

    # --- for the two ends, which hold no lock of their own

    def to_listener(self, peer: Peer, data: bytes) -> bool:
        with self._changed:
            listener = self._listener
            if listener is None or listener.closed or listener.pending(peer) >= self.capacity:
                return False
            listener.inbox.append((peer, data))
            self._changed.notify_all()
            return True

    def to_edge(self, listener: MemoryListener, peer: Peer, data: bytes) -> bool:
        with self._changed:
            edge = self._edges.get(peer)
            if edge is None or listener is not self._listener or len(edge.inbox) >= self.capacity:
                return False
            edge.inbox.append(data)
            self._changed.notify_all()
            return True

    def connected(self) -> bool:
        return self._listener is not None and not self._listener.closed

    def forget(self, peer: Peer) -> None:
        with self._changed:
            self._edges.pop(peer, None)

    def notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait(self, until: float, come_true: Callable[[], bool], idle: Callable[[], bool] | None = None) -> bool:
        """Wait for ``come_true`` until the clock shows ``until``; False if it did not come true."""
        while True:
            if come_true():
                return True
            if idle is not None and idle():
                continue
            remaining = until - self.clock.now()
            if remaining <= 0:
                return False
            if isinstance(self.clock, ManualClock):
                self.clock.wait_until(until)
                continue
            with self._changed:
                if not come_true():
                    self._changed.wait(remaining)


class MemoryTransport:
    """The edge's end; made by :meth:`MemoryNetwork.connect`."""

    def __init__(self, network: MemoryNetwork, peer: Peer) -> None:
        self.counters = Counters()
        self.inbox: deque[bytes] = deque()
        self._network = network
        self._peer = peer
        self._codec = Codec()
        self._closed = False

    def ready(self, timeout_s: float) -> bool:
        network = self._network
        return not self._closed and network.wait(
            network.clock.now() + timeout_s, network.connected, network.while_waiting
        )

    def send(self, message: EdgeMessage) -> None:
        data = self._codec.encode(message)
        if self._closed or not self._network.to_listener(self._peer, data):
            raise LinkLost("nobody listens in this memory network, or its queue is full; start the server first.")
        self.counters.sent(len(data))

    def receive(self, timeout_s: float) -> CloudMessage | None:
        network = self._network
        until = network.clock.now() + timeout_s
        while network.wait(until, lambda: bool(self.inbox), network.while_waiting):
            message = edge_decode(self._codec, self.inbox.popleft(), self.counters)
            if message is not None:
                return message
        return None

    def reconnect(self) -> None:
        self.inbox.clear()

    def close(self) -> None:
        self._closed = True
        self._network.forget(self._peer)


class MemoryListener:
    """The cloud's end; made by :meth:`MemoryNetwork.listen`."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.inbox: deque[tuple[Peer, bytes]] = deque()
        self.closed = False
        self._network = network
        self._end = CloudEnd(network.clock)
        self._woken = False

    @property
    def counters(self) -> Counters:
        return self._end.counters

    @property
    def address(self) -> str:
        return "memory://"

    def pending(self, peer: Peer) -> int:
        """Messages of ``peer`` not yet read."""
        return sum(1 for sender, _ in self.inbox if sender == peer)

    def receive(self, timeout_s: float) -> tuple[Peer, EdgeMessage] | None:
        until = self._network.clock.now() + timeout_s
        while self._network.wait(until, lambda: bool(self.inbox) or self._woken):
            if self._woken:
                self._woken = False
                return None
            peer, data = self.inbox.popleft()
            message, answer = self._end.decode(peer, data)
            if message is not None:
                return peer, message
            if answer is not None and self._network.to_edge(self, peer, answer):
                self._end.counters.sent(len(answer))
        return None

    def send(self, peer: Peer, message: CloudMessage) -> bool:
        data = self._end.encode(peer, message)
        if data is None or self.closed or not self._network.to_edge(self, peer, data):
            return False
        self._end.counters.sent(len(data))
        return True

    def take_messages_of(self, longest: int) -> None:
        self._end.longest_message = longest

    def wake(self) -> None:
        self._woken = True
        self._network.notify()

    def close(self) -> None:
        self.closed = True
        self._network.notify()
