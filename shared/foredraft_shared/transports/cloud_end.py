"""What every listener does with bytes, whatever brought them: one codec a peer, and answers to what cannot be read."""

from __future__ import annotations

from functools import partial
from typing import Literal

from ..clock import Clock
from ..errors import Malformed, PromptTooLong
from ..limits import MAX_MESSAGE_BYTES
from ..messages import CloudMessage, EdgeMessage, Failure
from ..token_bucket import TokenBucket
from ..wire import Codec, NoChannelError, UnknownChannel
from .base import Counters, Peer
from .peer_table import PeerTable

__all__ = ["CloudEnd"]

FAILURES_PER_SECOND = 10.0
"""How many malformed messages are answered; the rest are only counted, so that garbage does not breed garbage."""


MESSAGES_PER_SECOND = 5000.0
"""Of one device, or else of one connection, in bursts of twice as many: more than a device has to say, less than we can read."""
MESSAGES_PER_SECOND_WHEN_BEHIND = 300.0
"""The same while more comes than is read."""
BEHIND_S = 0.5
"""So long without once having read everything is behind."""
MAX_CHANNELS = 256
"""Sessions that one connection may name at once."""


class _Rate:
    """What is counted of who speaks."""

    __slots__ = ("cuts", "messages", "modest")

    def __init__(self, clock: Clock) -> None:
        self.messages = TokenBucket(MESSAGES_PER_SECOND, 2 * MESSAGES_PER_SECOND, clock.now)
        self.modest = TokenBucket(MESSAGES_PER_SECOND_WHEN_BEHIND, 2 * MESSAGES_PER_SECOND_WHEN_BEHIND, clock.now)
        self.cuts = TokenBucket(1.0, 1.0, clock.now)


class CloudEnd:
    """The codecs of a listener's peers. A peer that is forgotten, being silent longest of too many, is asked to resume."""

    def __init__(self, clock: Clock) -> None:
        self.counters = Counters()
        self.longest_message = MAX_MESSAGE_BYTES
        """Bytes; what is longer is refused before it is read, which would take too long."""
        self._codecs: PeerTable[Codec] = PeerTable(partial(Codec, MAX_CHANNELS))
        self._rates: PeerTable[_Rate] = PeerTable(partial(_Rate, clock))
        self._clock = clock
        self._kept_up_at = clock.now()
        self._failures = TokenBucket(FAILURES_PER_SECOND, FAILURES_PER_SECOND, clock.now)

    def kept_up(self) -> None:
        """All that had come has been read."""
        self._kept_up_at = self._clock.now()

    def floods(self, peer: Peer) -> Literal["", "drop", "cut"]:
        """Whether a peer says so much that this message is to be dropped, or its connection closed as well.

        Asked once for each message, before it is read.
        """
        # All connections of a device together; where nobody proves who he is, each by itself.
        rate = self._rates.entry(Peer(b"", peer.identity) if peer.identity else peer)
        modest = rate.modest.take() == 0.0
        behind = self._clock.now() - self._kept_up_at > BEHIND_S
        if rate.messages.take() == 0.0 and (modest or not behind):
            return ""
        self.counters.dropped += 1
        # What is left of a connection that was closed is dropped only: its number may be another connection's by now.
        return "cut" if rate.cuts.take() == 0.0 else "drop"

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
        if self._failures.take() > 0.0:
            return None
        return self._codecs.entry(peer).encode(Failure(code, sentence))
