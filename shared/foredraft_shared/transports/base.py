"""What a transport is: the seam between the protocol and the network.

An edge holds one :class:`Transport`, a cloud one :class:`Listener`; each belongs to one thread. Both may lose messages,
never change them, and never block longer than they were told to. What is lost is the sender's to repeat: a transport
does not try.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..errors import Malformed
from ..messages import CloudMessage, EdgeMessage
from ..wire import Codec

__all__ = ["Counters", "Listener", "Peer", "Transport", "edge_decode", "frame_bytes"]


@dataclass(frozen=True, slots=True)
class Peer:
    """An edge as a listener knows it: to be handed back to :meth:`Listener.send`, and to be used as a key."""

    connection: bytes
    """Which connection; means nothing beyond its listener."""
    identity: str = ""
    """Who authentication says it is (a public key), or empty where nobody asks."""


@dataclass(slots=True)
class Counters:
    """What went over a connection. Bytes are those of the messages and of ZeroMQ's frame headers."""

    bytes_sent: int = 0
    bytes_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    dropped: int = 0
    """Messages received and thrown away: malformed, or late ones about sessions that are closed."""

    def sent(self, size: int) -> None:
        self.bytes_sent += frame_bytes(size)
        self.messages_sent += 1

    def received(self, size: int) -> None:
        self.bytes_received += frame_bytes(size)
        self.messages_received += 1


class Transport(Protocol):
    """The edge's end. Used by one thread."""

    @property
    def counters(self) -> Counters:
        """What went over it so far."""

    def ready(self, timeout_s: float) -> bool:
        """Wait until a message could be sent; False if that did not come true in time."""

    def send(self, message: EdgeMessage) -> None:
        """Hand a message to the network; returns at once.

        Raises:
            LinkLost: nobody is connected, or the queue is full. The message is not sent later.
            ValueError: a field is out of its range.
        """

    def receive(self, timeout_s: float) -> CloudMessage | None:
        """The next message, waiting at most ``timeout_s`` seconds for it (0: only look); None if there is none."""

    def reconnect(self) -> None:
        """Give up the present connection, with all that is under way on it, and begin a new one."""

    def close(self) -> None:
        """Let go of the connection; may be called twice."""


class Listener(Protocol):
    """The cloud's end. Used by one thread, but for :meth:`wake`."""

    @property
    def counters(self) -> Counters:
        """What went over it so far."""

    @property
    def address(self) -> str:
        """Where edges reach it, with the port that was really taken."""

    def receive(self, timeout_s: float) -> tuple[Peer, EdgeMessage] | None:
        """The next message and whose it is; None after ``timeout_s`` seconds or after :meth:`wake`."""

    def send(self, peer: Peer, message: CloudMessage) -> bool:
        """Hand a message to the network at once; False if the peer or the session is gone, or does not read.

        Raises:
            ValueError: a field is out of its range.
        """

    def take_messages_of(self, longest: int) -> None:
        """Refuse messages of more bytes than ``longest`` from now on, before they are read."""

    def wake(self) -> None:
        """Make a :meth:`receive` that waits return now, or else the next one; from any thread."""

    def close(self) -> None:
        """Stop listening and let go of every connection; may be called twice."""


def frame_bytes(size: int) -> int:
    """Bytes on the network for a message of ``size`` bytes (ZMTP 3.1: flags and length, then the message)."""
    return size + (2 if size <= 255 else 9)


def edge_decode(codec: Codec, data: bytes, counters: Counters) -> CloudMessage | None:
    """What the cloud said, or None if it cannot be used; the edge answers nothing but the count of it."""
    counters.received(len(data))
    try:
        message = codec.decode(data)
    except Malformed:
        message = None
    if not isinstance(message, CloudMessage):
        counters.dropped += 1
        return None
    return message
