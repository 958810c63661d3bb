"""The event loop of the link emulator: every chunk of bytes that comes in gets a time at which it goes out.

For each direction of a connection a chunk read at ``t`` first waits for the line to be free, then occupies it for its
size divided by the rate, then travels for the delay; it never overtakes the chunk before it, because this is TCP::

    free = max(t, free) + size / rate
    due  = max(free + delay ± jitter, due)

The waiting is done in ``select``, whose time-out has microseconds (``epoll`` and ``poll`` round to milliseconds), on
the one descriptor of the selector that watches all the others.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import random
import select
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Changing", "LinkSettings", "LinkStatistics", "Relay"]

SEGMENT_BYTES = 1448
"""A rate limit lets bytes through in pieces of this size: what one Ethernet frame carries."""
READ_BYTES = 65536
HEAD_START_S = 0.00015
"""The relay's own way, from the kernel's wake-up through ``recv`` to ``send``, takes about this long each way
(measured); it goes off the delay, so that the delay is what the two programs see."""
FREE_QUEUE_BYTES = 16 * 2**20
"""Most bytes in flight each way when the rate is not limited; then the sender is made to wait."""
_PR_SET_TIMERSLACK = 29
QUEUE_SECONDS = 0.25
"""The same for a limited rate, in seconds of it: about what a home router holds."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """What a link is like. All zero: as good as none."""

    rtt_ms: float = 0.0
    """Round trip; half of it each way."""
    jitter_ms: float = 0.0
    """The round trip varies by this much up and down, half of it each way, evenly distributed."""
    rate_mbps: float = 0.0
    """Megabits a second each way, of what TCP carries; 0 is unlimited."""
    rate_up_mbps: float | None = None
    """The same for the way up, if that is another: *up* is from the side that connected."""
    up_share: float = 0.5
    """Share of the round trip that the way up takes."""
    stall_every_s: float = 0.0
    """Mean time between stalls, in which nothing arrives and after which everything does; 0 is never."""
    stall_ms: float = 0.0
    """How long a stall lasts."""
    seed: int = 0
    """Of jitter and stalls."""

    def __post_init__(self) -> None:
        for name in ("rtt_ms", "jitter_ms", "rate_mbps", "stall_every_s", "stall_ms"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; give 0 or a positive number.")
        if self.rate_up_mbps is not None and not (math.isfinite(self.rate_up_mbps) and self.rate_up_mbps >= 0):
            raise ValueError(f"rate_up_mbps is {self.rate_up_mbps}; give 0 or a positive number.")
        if not 0.0 <= self.up_share <= 1.0:
            raise ValueError(f"up_share is {self.up_share}; give a share between 0 and 1.")

    def delay_ms(self, *, up: bool) -> float:
        """Of one way, jitter left aside."""
        return self.rtt_ms * (self.up_share if up else 1.0 - self.up_share)

    def rate(self, *, up: bool) -> float:
        """Megabits a second of one way; 0 is unlimited."""
        return self.rate_up_mbps if up and self.rate_up_mbps is not None else self.rate_mbps


class Changing(Protocol):
    """A link that is not always the same: see :class:`foredraft_shared.transports.recording.LinkRecording`."""

    def at(self, time_s: float) -> LinkSettings:
        """What it is like so long after its first connection was made."""


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """What went through a link so far; *up* is from the side that connected."""

    bytes_up: int
    bytes_down: int
    connections: int
    open_connections: int
    bytes_lost: int
    """Swallowed by a black hole."""


class _End:
    """One socket of a connection, and the bytes on their way to it."""

    def __init__(self, sock: socket.socket, connected: bool) -> None:
        self.socket = sock
        self.connected = connected
        self.reading = True  # False after its end of file
        self.queue: deque[tuple[float, bytes]] = deque()  # (due, bytes); empty bytes: end of file
        self.queued_bytes = 0
        self.due = 0.0
        self.free = 0.0
        self.blocked = False  # the kernel takes no more for now
        self.finished = False  # end of file was passed on
        self.closed = False
        self.watched = 0


class _Connection:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = _End(client, connected=True)
        self.server = _End(server, connected=False)
        self.dead = False  # it lost bytes: nothing will pass any more, and nobody is told

    @property
    def ends(self) -> tuple[_End, _End]:
        return self.client, self.server

    def other(self, end: _End) -> _End:
        return self.server if end is self.client else self.client


class Relay:
    """Listens, connects onward, and passes bytes on in their time. Everything but ``call`` is for the loop's thread."""

    def __init__(
        self,
        listener: socket.socket,
        target: tuple[str, int],
        settings: LinkSettings,
        changing: Changing | None = None,
    ) -> None:
        self.settings = settings
        self._changing = changing
        self._began: float | None = None  # of the first connection
        self.hole = ""  # "", "hold" or "drop"
        self._random = random.Random(settings.seed)
        self._target = target
        self._listener = listener
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, None)
        self._commands: deque[Callable[[], None]] = deque()
        self._bell, self._button = socket.socketpair()
        for sock in (self._bell, self._button):
            sock.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ, None)
        self._connections: list[_Connection] = []
        self._running = True
        self._stalled_until = 0.0
        self._next_stall = math.inf
        self._bytes = {"up": 0, "down": 0, "lost": 0}
        self._count = 0
        self._plan_stall(time.monotonic())

    # --- for any thread

    def call(self, command: Callable[[], None]) -> None:
        """Have the loop's thread do something soon."""
        self._commands.append(command)
        with contextlib.suppress(BlockingIOError, OSError):
            self._button.send(b"\0")

    def statistics(self) -> LinkStatistics:
        count = self._bytes
        return LinkStatistics(count["up"], count["down"], self._count, len(self._connections), count["lost"])

    # --- the loop

    def run(self) -> None:
        """Until :meth:`stop`; then everything is closed."""
        selector_descriptor = self._selector.fileno()
        _wake_up_sharply()
        try:
            while self._running:
                select.select([selector_descriptor], [], [], self._timeout(time.monotonic()))
                for key, events in self._selector.select(0):
                    self._handle(key, events)
                self._deliver(time.monotonic())
        finally:
            for connection in list(self._connections):
                self._drop(connection)
            for sock in (self._listener, self._bell, self._button):
                sock.close()
            self._selector.close()

    def stop(self) -> None:
        self._running = False

    def change(self, settings: LinkSettings) -> None:
        """From now on; bytes under way keep the times they have. A link that was changing by itself no longer does."""
        self.settings = settings
        self._changing = None
        self._plan_stall(time.monotonic())

    def open_hole(self, hold: bool) -> None:
        self.hole = "hold" if hold else "drop"
        if not hold:
            for connection in self._connections:
                if any(end.queue for end in connection.ends):
                    self._kill(connection)

    def heal(self) -> None:
        self.hole = ""
        self._stalled_until = 0.0

    def stall(self, seconds: float) -> None:
        self._stalled_until = max(self._stalled_until, time.monotonic() + seconds)

    def reset(self) -> None:
        """RST to both sides of every connection."""
        for connection in list(self._connections):
            self._drop(connection, reset=True)

    def half_open(self) -> None:
        """Let every connection be dead without its device being told; the server is (RST)."""
        for connection in list(self._connections):
            self._kill(connection)
            self._close(connection, connection.server, reset=True)

    def _timeout(self, now: float) -> float | None:
        """Seconds to the next thing to do by the clock, or None."""
        nearest = math.inf
        if self.hole != "hold":
            for connection in self._connections:
                for end in connection.ends:
                    if end.queue and end.connected and not end.blocked and end.queue[0][0] < nearest:
                        nearest = end.queue[0][0]
            if nearest < self._stalled_until:
                nearest = self._stalled_until
        nearest = min(nearest, self._next_stall)
        return None if nearest == math.inf else max(0.0, nearest - now)

    def _handle(self, key: selectors.SelectorKey, events: int) -> None:
        if key.fileobj is self._listener:
            self._accept()
        elif key.fileobj is self._bell:
            with contextlib.suppress(BlockingIOError):
                self._bell.recv(4096)
            while self._commands:
                self._commands.popleft()()
        else:
            connection, end = key.data
            if events & selectors.EVENT_WRITE and not end.closed:
                self._writable(connection, end)
            if events & selectors.EVENT_READ and not end.closed:
                self._read(connection, end)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it went away again
            return
        if self._began is None:
            self._began = time.monotonic()
        family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
        server = socket.socket(family, socket.SOCK_STREAM)
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(client, server)
        self._connections.append(connection)
        self._count += 1
        if self.hole == "drop":
            connection.dead = True
            self._close(connection, connection.server)
        else:
            server.connect_ex(self._target)
        self._watch_both(connection)

    def _writable(self, connection: _Connection, end: _End) -> None:
        if not end.connected:
            if end.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:  # nobody there
                self._drop(connection, reset=True)
                return
            end.connected = True
        end.blocked = False
        self._watch(connection, end)

    def _read(self, connection: _Connection, end: _End) -> None:
        try:
            data = end.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            if connection.dead:
                self._close(connection, end)
            else:
                self._drop(connection, reset=True)
            return
        if self.hole == "drop" and not connection.dead:
            self._kill(connection)
        if connection.dead:
            self._bytes["lost"] += len(data)
            if not data:
                self._close(connection, end)
            return
        if not data:
            end.reading = False
        self._schedule(connection.other(end), data, time.monotonic(), up=end is connection.client)
        self._watch(connection, end)

    def _schedule(self, sink: _End, data: bytes, now: float, *, up: bool) -> None:
        settings = self._settings_at(now)
        now -= HEAD_START_S
        sink.free = max(sink.free, now)
        rate_mbps = settings.rate(up=up)
        step = SEGMENT_BYTES if rate_mbps else READ_BYTES
        delay = settings.delay_ms(up=up) / 1000
        for start in range(0, max(len(data), 1), step):
            piece = data[start : start + step]
            if rate_mbps:
                sink.free += len(piece) * 8 / (rate_mbps * 1e6)
            wobble = self._random.uniform(-0.5, 0.5) * settings.jitter_ms / 1000 if settings.jitter_ms else 0.0
            sink.due = max(sink.due, sink.free + max(0.0, delay + wobble))
            sink.queue.append((sink.due, piece))
            sink.queued_bytes += len(piece)

    def _settings_at(self, now: float) -> LinkSettings:
        if self._changing is None or self._began is None:
            return self.settings
        return self._changing.at(now - self._began)

    def _deliver(self, now: float) -> None:
        if now >= self._next_stall:
            self.stall(self.settings.stall_ms / 1000)
            self._plan_stall(now)
        if self.hole == "hold" or now < self._stalled_until:
            return
        for connection in list(self._connections):
            for end in connection.ends:
                if end.queue and end.queue[0][0] <= now and end.connected and not end.blocked and not end.closed:
                    self._write(connection, end, now)

    def _write(self, connection: _Connection, end: _End, now: float) -> None:
        pieces = []
        at_end = False
        while end.queue and end.queue[0][0] <= now:
            _, piece = end.queue.popleft()
            at_end = not piece
            pieces.append(piece)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        try:
            sent = end.socket.send(data) if data else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection, reset=True)
            return
        end.queued_bytes -= sent
        self._bytes["up" if end is connection.server else "down"] += sent
        if sent < len(data):
            if at_end:
                end.queue.appendleft((now, b""))
            end.queue.appendleft((now, data[sent:]))
            end.blocked = True
        elif at_end:
            end.finished = True
            with contextlib.suppress(OSError):
                end.socket.shutdown(socket.SHUT_WR)
        if all(one.finished for one in connection.ends):
            self._drop(connection)
        else:
            self._watch_both(connection)

    def _plan_stall(self, now: float) -> None:
        every = self.settings.stall_every_s
        self._next_stall = now + self._random.expovariate(1 / every) if every else math.inf

    # --- connections

    def _queue_limit(self, *, up: bool) -> float:
        rate = self._settings_at(time.monotonic()).rate(up=up)
        return max(4 * SEGMENT_BYTES, rate * 1e6 / 8 * QUEUE_SECONDS) if rate else FREE_QUEUE_BYTES

    def _watch_both(self, connection: _Connection) -> None:
        for end in connection.ends:
            self._watch(connection, end)

    def _watch(self, connection: _Connection, end: _End) -> None:
        """Tell the selector what is to be known about a socket now."""
        if end.closed:
            return
        full = connection.other(end).queued_bytes >= self._queue_limit(up=end is connection.client)
        wanted = selectors.EVENT_READ if end.reading and end.connected and not full else 0
        if end.blocked or not end.connected:
            wanted |= selectors.EVENT_WRITE
        if wanted == end.watched:
            return
        if not end.watched:
            self._selector.register(end.socket, wanted, (connection, end))
        elif not wanted:
            self._selector.unregister(end.socket)
        else:
            self._selector.modify(end.socket, wanted, (connection, end))
        end.watched = wanted

    def _kill(self, connection: _Connection) -> None:
        """Bytes of a stream are lost, so the rest would make no sense: swallow everything, tell nobody."""
        connection.dead = True
        for end in connection.ends:
            self._bytes["lost"] += end.queued_bytes
            end.queue.clear()
            end.queued_bytes = 0
        self._watch_both(connection)

    def _close(self, connection: _Connection, end: _End, reset: bool = False) -> None:
        if not end.closed:
            if end.watched:
                self._selector.unregister(end.socket)
            if reset:
                with contextlib.suppress(OSError):
                    # A linger time of zero makes close() send RST instead of FIN.
                    end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.socket.close()
            end.closed = True
            end.watched = 0
            end.queue.clear()
        if all(one.closed for one in connection.ends) and connection in self._connections:
            self._connections.remove(connection)

    def _drop(self, connection: _Connection, reset: bool = False) -> None:
        for end in connection.ends:
            self._close(connection, end, reset)


def _wake_up_sharply() -> None:
    """Ask Linux not to round this thread's timers up to share wake-ups (by default it may, by 50 microseconds)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)
