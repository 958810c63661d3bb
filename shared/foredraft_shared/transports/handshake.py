"""Why a connection does not come about: what the edge reads from its socket's monitor.

Libzmq tries for ever and says nothing, so the monitor must be asked. As measured (libzmq 4.3.5), on the edge's side:

===============================  ===========================================================================
what is wrong                    what the monitor says
===============================  ===========================================================================
key not on the server's list     ``HANDSHAKE_FAILED_AUTH``; libzmq does not try again
one side encrypts, one does not  ``HANDSHAKE_FAILED_PROTOCOL`` (mechanism), or a closed connection
the server has another key       a closed connection, again and again (``HANDSHAKE_FAILED_NO_DETAIL``)
a relay with nobody behind it    the same
===============================  ===========================================================================

The last three are told apart by reading the greeting in which a ZeroMQ server names its mechanism, on a connection made
for it: a server that encrypts and still hangs up on every handshake does not have the key that the edge expects.
"""

from __future__ import annotations

import errno
import socket as sockets
import threading
from collections.abc import Mapping
from contextlib import suppress

import zmq
from zmq.utils.monitor import recv_monitor_message

from ..errors import LinkError, NotEnrolled, ServerKeyMismatch
from .address import parse_host_port

__all__ = ["HandshakeWatch", "server_mechanism"]

_PATIENCE = 3
"""Handshakes that must fail in a row: a server that is just being stopped may break off one or two."""
_PROBE_S = 1.0
_MECHANISM_MISMATCH = 0x11000002  # ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_GREETING_BYTES = 64
_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01"
"""Signature and version. No more: at a mechanism it does not want a server hangs up before it names its own."""


class HandshakeWatch:
    """What is known of a socket's handshakes. Used by the socket's thread.

    Args:
        socket: before it connects.
        address: for errors, and to ask the server for its mechanism.
        encrypted: whether the socket has keys.
    """

    def __init__(self, socket: zmq.Socket[bytes], address: str, *, encrypted: bool) -> None:
        self._socket = socket
        self._monitor = socket.get_monitor_socket(_EVENTS)
        self._address = address
        self._encrypted = encrypted
        self.succeeded = False
        """Whether the server has ever let this device in."""
        self._failed_in_a_row = 0
        self._mechanism = ""
        self._asking: threading.Thread | None = None
        self._error: LinkError | None = None

    def check(self) -> None:
        """Look at what the monitor has to say.

        Raises:
            NotEnrolled, ServerKeyMismatch: the connection will not come about, however long one waits.
        """
        while self._error is None and self._monitor.poll(0):
            self._take(recv_monitor_message(self._monitor))
        if self._error is None and self._failed_in_a_row >= _PATIENCE and self._mechanism:
            self._error = self._explained()
        if self._error is not None:
            raise type(self._error)(*self._error.args)

    def close(self) -> None:
        """Stop watching; before the socket is closed."""
        self._socket.disable_monitor()
        self._monitor.close()

    def _take(self, event: Mapping[str, object]) -> None:
        kind, value = event["event"], event["value"]
        if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.succeeded = True
            self._failed_in_a_row = 0
            self._mechanism = ""
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            before = "no longer accepts" if self.succeeded else "does not accept"
            self._error = NotEnrolled(
                f"the server at {self._address} {before} this device's key (never enrolled there, or revoked); ask its "
                "operator for a token (`foredraft keys token`), then run `foredraft enroll`."
            )
        elif value == _MECHANISM_MISMATCH:  # libzmq does not try again
            self._failed_in_a_row = _PATIENCE
            self._mechanism = "NULL" if self._encrypted else "CURVE"
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL or value in (errno.EPIPE, errno.ECONNRESET):
            self._failed_in_a_row += 1
            enough = self._failed_in_a_row >= _PATIENCE
            if enough and (self._asking is None or not self._asking.is_alive()):
                self._asking = threading.Thread(target=self._ask, name="foredraft-handshake", daemon=True)
                self._asking.start()

    def _ask(self) -> None:
        self._mechanism = server_mechanism(self._address)

    def _explained(self) -> LinkError | None:
        if self._mechanism == "CURVE" and not self._encrypted:
            return NotEnrolled(
                f"the server at {self._address} takes only enrolled devices, and this one is not; ask its operator for a "
                "token (`foredraft keys token`), then run `foredraft enroll`."
            )
        if self._mechanism == "CURVE":
            return ServerKeyMismatch(
                f"the server at {self._address} does not have the key this device enrolled with; if it was set up anew, "
                "enrol again (`foredraft enroll`), else somebody else answers there."
            )
        if self._encrypted:
            return ServerKeyMismatch(
                f"this device is enrolled at {self._address}, but what answers there does not encrypt; start the server "
                "with --secure, or forget the enrolment (`foredraft enroll --forget`)."
            )
        return None


def server_mechanism(address: str) -> str:
    """What a ZeroMQ server says it authenticates with (``"NULL"``, ``"CURVE"``); empty if none answers."""
    if not address.startswith("tcp://"):
        return ""
    greeting = b""
    with suppress(OSError), sockets.create_connection(parse_host_port(address), _PROBE_S) as connection:
        connection.settimeout(_PROBE_S)
        connection.sendall(_GREETING)
        while len(greeting) < _GREETING_BYTES and (piece := connection.recv(_GREETING_BYTES - len(greeting))):
            greeting += piece
    if len(greeting) < 32 or greeting[0] != 0xFF or greeting[9] & 1 == 0:
        return ""
    return greeting[12:32].rstrip(b"\0").decode("ascii", "replace")
