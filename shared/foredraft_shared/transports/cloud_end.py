"""What every listener does with bytes, whatever brought them: one codec a peer, and answers to what cannot be read."""

from __future__ import annotations

from functools import partial

from ..clock import Clock
from ..errors import Malformed, PromptTooLong
from ..limits import MAX_MESSAGE_BYTES
from ..messages import CloudMessage, EdgeMessage, Failure
from ..wire import Codec, NoChannelError, UnknownChannel
from .base import Counters, Peer
from .peer_table import PeerTable

__all__ = ["CloudEnd"]

FAILURES_PER_SECOND = 10.0
"""How many malformed messages are answered; the rest are only counted, so that garbage does not breed garbage."""


MAX_CHANNELS = 256
"""Sessions that one connection may name at once."""


class CloudEnd:
    """The codecs of a listener's peers. A peer that is forgotten, being silent longest of too many, is asked to resume."""

    def __init__(self, clock: Clock) -> None:
        self.counters = Counters()
        self.longest_message = MAX_MESSAGE_BYTES
        """Bytes; what is longer is refused before it is read, which would take too long."""
        self._clock = clock
        self._codecs: PeerTable[Codec] = PeerTable(partial(Codec, MAX_CHANNELS))
        self._failures_left = FAILURES_PER_SECOND
        self._failures_counted_at = clock.now()

    def decode(self, peer: Peer, data: bytes) -> tuple[EdgeMessage | None, bytes | None]:
        """The message, or else the bytes to answer with, or neither."""
        self.counters.received(len(data))
        if len(data) > self.longest_message:
            return None, self._answered(
                peer,
                PromptTooLong.code,
                f"a message of {len(data)} bytes; this server's longest prompt fits into {self.longest_message}. "
                "Shorten the prompt.",
            )
        codec = self._codecs.entry(peer)
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
        return self._answered(peer, Malformed.code, f"malformed message: {reason}"[:500])

    def encode(self, peer: Peer, message: CloudMessage) -> bytes | None:
        """The bytes for a peer; None if it has closed the session meanwhile."""
        try:
            return self._codecs.entry(peer).encode(message)
        except NoChannelError:
            return None

    def _answered(self, peer: Peer, code: str, sentence: str) -> bytes | None:
        self.counters.dropped += 1
        now = self._clock.now()
        refill = (now - self._failures_counted_at) * FAILURES_PER_SECOND
        self._failures_left = min(FAILURES_PER_SECOND, self._failures_left + refill)
        self._failures_counted_at = now
        if self._failures_left < 1.0:
            return None
        self._failures_left -= 1.0
        return self._codecs.entry(peer).encode(Failure(code, sentence))
