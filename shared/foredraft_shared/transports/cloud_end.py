"""What every listener does with bytes, whatever brought them: one codec a peer, and answers to what cannot be read."""

from __future__ import annotations

from collections import OrderedDict

from ..clock import Clock
from ..errors import Malformed
from ..messages import CloudMessage, EdgeMessage, Failure
from ..wire import Codec, NoChannelError, UnknownChannel
from .base import Counters, Peer

__all__ = ["CloudEnd"]

FAILURES_PER_SECOND = 10.0
"""How many malformed messages are answered; the rest are only counted, so that garbage does not breed garbage."""


class CloudEnd:
    """The codecs of a listener's peers.

    Args:
        max_peers: beyond it the peer longest silent is forgotten; if it speaks again, it is asked to resume.
    """

    def __init__(self, clock: Clock, max_peers: int = 4096) -> None:
        self.counters = Counters()
        self._clock = clock
        self._max_peers = max_peers
        self._codecs: OrderedDict[Peer, Codec] = OrderedDict()
        self._failures_left = FAILURES_PER_SECOND
        self._failures_counted_at = clock.now()

    def decode(self, peer: Peer, data: bytes) -> tuple[EdgeMessage | None, bytes | None]:
        """The message, or else the bytes to answer with, or neither."""
        self.counters.received(len(data))
        codec = self._codec(peer)
        try:
            message = codec.decode(data)
        except UnknownChannel as error:
            self.counters.dropped += 1
            # Nobody needs to resume what is being closed.
            return None, None if error.kind == "close" else codec.encode_need_resume(error)
        except Malformed as error:
            return None, self.refuse(peer, str(error))
        if not isinstance(message, EdgeMessage):
            return None, self.refuse(peer, f"{type(message).__name__} is for a server to say")
        return message, None

    def refuse(self, peer: Peer, reason: str) -> bytes | None:
        """Count a malformed message; the bytes to answer with, unless too many were answered lately."""
        self.counters.dropped += 1
        now = self._clock.now()
        refill = (now - self._failures_counted_at) * FAILURES_PER_SECOND
        self._failures_left = min(FAILURES_PER_SECOND, self._failures_left + refill)
        self._failures_counted_at = now
        if self._failures_left < 1.0:
            return None
        self._failures_left -= 1.0
        sentence = f"malformed message: {reason}"[:500]
        return self._codec(peer).encode(Failure(Malformed.code, sentence))

    def encode(self, peer: Peer, message: CloudMessage) -> bytes | None:
        """The bytes for a peer; None if it has closed the session meanwhile."""
        try:
            return self._codec(peer).encode(message)
        except NoChannelError:
            return None

    def _codec(self, peer: Peer) -> Codec:
        codec = self._codecs.get(peer)
        if codec is None:
            while len(self._codecs) >= self._max_peers:
                self._codecs.popitem(last=False)
            codec = self._codecs[peer] = Codec()
        self._codecs.move_to_end(peer)
        return codec
