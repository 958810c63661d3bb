"""ZeroMQ: a DEALER on the edge, a ROUTER in the cloud.

The settings follow from measurements told in ``docs/protocol.md``. In short: a link that dies silently swallows
messages while every ``send`` succeeds, so devices send heartbeats, and name the time after which a server may miss them;
a socket with nobody behind it queues and then blocks, so ``IMMEDIATE`` and non-blocking sends turn that into
:class:`LinkLost`; a device that comes back keeps its routing id, so the server must hand the id over to the new
connection. Heartbeats are answered by ZeroMQ's own thread: that a server *works* is only told by the answer to a
:class:`Ping`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import socket as sockets
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import zmq

from ..clock import SystemClock
from ..errors import AddressInUse, InsecureBind, LinkError, LinkLost
from ..limits import MAX_MESSAGE_BYTES
from ..messages import CloudMessage, EdgeMessage
from ..wire import Codec
from .address import is_loopback, parse_address, unix_socket_is_alive
from .backlog import Backlog
from .base import Counters, Peer, edge_decode
from .cloud_end import CloudEnd
from .handshake import HandshakeWatch

__all__ = ["Secure", "ZmqListener", "ZmqTransport"]

Secure: TypeAlias = Callable[["zmq.Socket[bytes]"], None]
"""Called with a socket before it is bound or connected, to set its keys and authentication domain."""

HEARTBEAT_MS = 500
"""For a local network; 1,000 suits a wide one. A peer silent for three of them is gone."""
QUEUE_MESSAGES = 256
_FREED_S, _REBIND_S = 1.0, 10.0

_log = logging.getLogger(__name__)


class ZmqTransport:
    """The edge's end. Connects in the background and again whenever the connection breaks.

    Args:
        address: ``tcp://HOST:PORT`` or ``ipc://PATH``.
        heartbeat_ms: see :data:`HEARTBEAT_MS`.
        secure: sets the keys (CURVE).
        context: of the caller, who also ends it; by default one of its own.
        routing_id: by which the server tells connections apart; by default a random one. For tests.

    ``send``, and a ``receive`` that waited in vain, also raise NotEnrolled and ServerKeyMismatch.

    Raises:
        UsageError: the address is not one.
    """

    def __init__(
        self,
        address: str,
        *,
        heartbeat_ms: int = HEARTBEAT_MS,
        secure: Secure | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        routing_id: bytes | None = None,
    ) -> None:
        parse_address(address)
        self.address = address
        self.counters = Counters()
        self._codec = Codec()
        self._own_context = context is None
        self._context = context or zmq.Context()
        self._heartbeat_ms = heartbeat_ms
        self._secure = secure
        # Kept over reconnects, so that the server finds its table again. It proves nothing about who we are.
        # The first byte must not be 0: such ids belong to the ROUTER.
        self._routing_id = routing_id or b"\x01" + os.urandom(15)
        self._connect()

    def _connect(self) -> None:
        self._socket = self._context.socket(zmq.DEALER)
        _configure(self._socket, self.address)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, self._heartbeat_ms)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * self._heartbeat_ms)
        self._socket.setsockopt(
            zmq.HEARTBEAT_TTL, 3 * self._heartbeat_ms
        )  # the server, too, gives up on us after so long
        self._socket.routing_id = self._routing_id
        self._socket.immediate = True  # queue only for a peer that is there
        self._socket.linger = 100  # the goodbye may still be on its way
        # A reconnect into an outage would stick for the default 30 s; over a satellite an encrypted one takes two.
        self._socket.handshake_ivl = 5000
        self._socket.reconnect_ivl = 100
        self._socket.reconnect_ivl_max = 1000
        self._socket.setsockopt(zmq.CONNECT_TIMEOUT, 3000)
        if self._secure is not None:
            self._secure(self._socket)
        self._watch = HandshakeWatch(self._socket, self.address, encrypted=self._secure is not None)
        try:
            self._socket.connect(self.address)
        except zmq.ZMQError as error:
            self.close()
            raise LinkError(f"cannot connect to {self.address}: {error}; check the address.") from None

    def reconnect(self) -> None:
        """As :meth:`Transport.reconnect`: ZeroMQ's own attempts become rare in a long outage, or stick in a handshake."""
        if self._socket.closed:
            return
        self._watch.check()
        known = self._watch.succeeded
        self._watch.close()
        self._socket.close(linger=0)
        self._connect()
        self._watch.succeeded = known

    def ready(self, timeout_s: float) -> bool:
        return not self._socket.closed and bool(self._socket.poll(_milliseconds(timeout_s), zmq.POLLOUT))

    def send(self, message: EdgeMessage) -> None:
        data = self._codec.encode(message)
        try:
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.Again:
            self._watch.check()
            raise LinkLost(f"no connection to {self.address}; check that the server runs and can be reached.") from None
        except zmq.ZMQError as error:
            raise LinkLost(f"the connection to {self.address} is closed ({error}).") from None
        self.counters.sent(len(data))

    def receive(self, timeout_s: float) -> CloudMessage | None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                # Asking first: the drafting loop looks after every token, and an exception costs more than an answer.
                readable = int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN
                frames = self._socket.recv_multipart(zmq.NOBLOCK) if readable else None
            except zmq.ZMQError as error:
                raise LinkLost(f"the connection to {self.address} is closed ({error}).") from None
            if frames is None:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    if timeout_s > 0:  # who only looks, between two drafted tokens, should not pay for this
                        self._watch.check()
                    return None
                self._socket.poll(_milliseconds(remaining))
                continue
            if len(frames) != 1:
                self.counters.dropped += 1
                continue
            message = edge_decode(self._codec, frames[0], self.counters)
            if message is not None:
                return message

    def close(self) -> None:
        if not self._socket.closed:
            self._watch.close()
        self._socket.close()
        if self._own_context:
            self._context.term()


class ZmqListener:
    """The cloud's end.

    Args:
        address: ``tcp://HOST:PORT`` (port 0: any free one) or ``ipc://PATH``.
        linger_ms: how long :meth:`close` waits for what is not sent yet.
        secure: sets keys and authentication domain; without it only this machine may connect.
        admits: asked about the identity of each message; if it says no, the message is dropped and the connection closed.
        context: of the caller, who also ends it; by default one of its own. ZeroMQ asks the authenticator of the same
            context, so whoever runs one needs to give it here.

    Raises:
        UsageError: the address is not one.
        AddressInUse: another process listens there.
        InsecureBind: the address can be reached from outside and there is no authentication.
        LinkError: the address is not one of this machine's, or may not be used.
    """

    def __init__(
        self,
        address: str = "tcp://127.0.0.1:0",
        *,
        linger_ms: int = 500,
        secure: Secure | None = None,
        admits: Callable[[str], bool] | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        _refuse_to_bind(address, authenticated=secure is not None)
        self._end = CloudEnd(SystemClock())
        self.restarts = 0
        """How often more had come than may wait, so that all of it was thrown away with the connections."""
        self._admits = admits
        # Sockets are not for several threads; a byte on this pair is how another thread ends a wait.
        self._wake_reader, self._wake_writer = sockets.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._own_context = context is None
        self._context = context or zmq.Context()
        self._linger_ms = linger_ms
        self._secure = secure
        self._backlog = Backlog(SystemClock())
        try:
            self._bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise _bind_error(address, error) from None
        self._address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def _bind(self, address: str) -> None:
        self._socket = self._context.socket(zmq.ROUTER)
        _configure(self._socket, address)
        self._socket.router_mandatory = True  # a vanished peer is an error, not silence
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # or a device that comes back is ignored
        self._socket.linger = self._linger_ms
        self._socket.handshake_ivl = 5000
        if self._secure is not None:
            self._secure(self._socket)
        self._socket.bind(address)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._wake_reader.fileno(), zmq.POLLIN)

    @property
    def counters(self) -> Counters:
        return self._end.counters

    @property
    def address(self) -> str:
        return self._address

    def receive(self, timeout_s: float) -> tuple[Peer, EdgeMessage] | None:
        deadline = time.monotonic() + timeout_s
        while True:
            if self._woken():
                return None
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                self._kept_up()
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None
                self._poller.poll(_milliseconds(remaining))
                self._kept_up()  # it was empty all the while
                continue
            if self._backlog.too_large():
                del frames
                self._begin_anew()
                continue
            peer = Peer(frames[0].bytes, _identity(frames[-1]))
            flood = self._end.floods(peer)
            if flood == "drop":
                continue
            if flood == "cut" or (self._admits is not None and not self._admits(peer.identity)):
                _hang_up(frames[-1])
                continue
            message, answer = self._read(peer, frames[1:])
            if message is not None:
                return peer, message
            if answer is not None:
                self._put(peer, answer)

    def send(self, peer: Peer, message: CloudMessage) -> bool:
        data = self._end.encode(peer, message)
        return data is not None and self._put(peer, data)

    def take_messages_of(self, longest: int) -> None:
        self._end.longest_message = longest

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # full: it is awake already; closed: it needs no waking
            self._wake_writer.send(b"\0")

    def close(self) -> None:
        self._socket.close()
        if self._own_context:
            self._context.term()
        self._wake_reader.close()
        self._wake_writer.close()

    def _kept_up(self) -> None:
        self._end.kept_up()
        self._backlog.kept_up()

    def _begin_anew(self) -> None:
        """Throw away what waits, and all connections with it: devices connect again, and repeat what has no answer."""
        self.restarts += 1
        _log.warning("more comes than is read: all connections are closed, and what they said is dropped")
        self._socket.close(linger=0)
        deadline = time.monotonic() + _FREED_S
        while not self._backlog.freed() and time.monotonic() < deadline:
            time.sleep(0.01)  # other threads do it
        deadline += _REBIND_S
        while True:
            try:
                self._bind(self._address)
                return
            except zmq.ZMQError as error:
                self._socket.close(linger=0)
                if error.errno != zmq.EADDRINUSE or time.monotonic() > deadline:
                    raise _bind_error(self._address, error) from None
                time.sleep(0.01)

    def _read(self, peer: Peer, frames: Sequence[zmq.Frame]) -> tuple[EdgeMessage | None, bytes | None]:
        if len(frames) != 1:
            return None, self._end.refuse(peer, f"{len(frames)} frames; a message is one")
        return self._end.decode(peer, frames[0].bytes)

    def _put(self, peer: Peer, data: bytes) -> bool:
        try:
            self._socket.send_multipart((peer.connection, data), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):  # does not read, or is gone
                return False
            raise
        self._end.counters.sent(len(data))
        return True

    def _woken(self) -> bool:
        try:
            return bool(self._wake_reader.recv(4096))
        except BlockingIOError:
            return False


def _configure(socket: zmq.Socket[bytes], address: str) -> None:
    """What both ends have in common; before bind and connect, or it has no effect."""
    socket.sndhwm = QUEUE_MESSAGES
    # No bound: where libzmq 4.3.5 stops reading, the other side's reset followed by a heartbeat aborts the whole process
    # (docs/protocol.md). A server closes the connection of who says too much instead, or all if it cannot keep up.
    socket.rcvhwm = 0
    socket.maxmsgsize = MAX_MESSAGE_BYTES
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle, socket.tcp_keepalive_intvl, socket.tcp_keepalive_cnt = 10, 5, 3
    # Not for every address: with it, "localhost" becomes ::1 and a server on 127.0.0.1 is not found.
    socket.ipv6 = ":" in parse_address(address)[1]


def _milliseconds(seconds: float) -> int:
    """Rounded up: a wait that ends early would only wait again."""
    return math.ceil(max(seconds, 0.0) * 1000)


def _identity(frame: zmq.Frame) -> str:
    """Who authentication says the sender is; empty without authentication."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


def _hang_up(frame: zmq.Frame) -> None:
    """Close the connection that a message came from; libzmq has no call for it. The next handshake is authenticated anew."""
    with contextlib.suppress(zmq.ZMQError, OSError):
        connection = sockets.socket(fileno=os.dup(int(frame.get(zmq.SRCFD))))
        with connection:
            # Should the connection be gone and its number be another's by now: that one will at least be from there.
            local = connection.family == sockets.AF_UNIX
            if local or connection.getpeername()[0].removeprefix("::ffff:") == str(frame.get("Peer-Address")):
                connection.shutdown(sockets.SHUT_RDWR)


def _refuse_to_bind(address: str, *, authenticated: bool) -> None:
    kind, host = parse_address(address)
    if kind == "ipc":
        # ZeroMQ would quietly take the path away from whoever listens there.
        if unix_socket_is_alive(host):
            raise AddressInUse(f"another process listens on {address}; stop it or give another --bind path.")
        return
    if not authenticated and not is_loopback(host):
        raise InsecureBind(
            f"{address} can be reached from other machines and no authentication is configured; "
            "bind tcp://127.0.0.1:PORT, or configure keys and an allow-list."
        )


def _bind_error(address: str, error: zmq.ZMQError) -> LinkError:
    if error.errno == zmq.EADDRINUSE:
        return AddressInUse(
            f"another process listens on {address}; stop it, or give another port (--bind tcp://127.0.0.1:0 takes any)."
        )
    if error.errno in (errno.ENODEV, zmq.EADDRNOTAVAIL):
        return LinkError(f"{address} is not an address of this machine; try tcp://127.0.0.1:0.")
    return LinkError(f"cannot listen on {address}: {error}; choose another address.")
