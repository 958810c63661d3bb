"""ZeroMQ's own protocol (ZMTP 3.1, without keys) by hand, for those who break its rules."""

from __future__ import annotations

import socket
import struct

__all__ = ["PING", "connect", "frame", "reset"]

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
_READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
PING = b"\x04\x07\x04PING\x00\x64"
"""A heartbeat that asks for an answer, and to be missed after ten seconds."""


def connect(address: str, timeout_s: float = 5.0) -> socket.socket:
    """A connection to the server at ``tcp://HOST:PORT``, handshake done."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout_s)
    connection.sendall(_GREETING)
    _exactly(connection, 64)
    connection.sendall(b"\x04" + bytes([len(_READY)]) + _READY)
    _exactly(connection, _exactly(connection, 2)[1])
    return connection


def frame(message: bytes) -> bytes:
    """A message of one frame, as it travels."""
    if len(message) <= 255:
        return b"\x00" + bytes([len(message)]) + message
    return b"\x02" + struct.pack("!Q", len(message)) + message


def reset(connection: socket.socket) -> None:
    """Vanish, as a machine does that loses its power: no goodbye, and what is under way is lost."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("the server hung up during the handshake")
        data += piece
    return data
