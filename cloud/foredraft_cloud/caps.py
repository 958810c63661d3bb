"""What one device may ask for: the socket thread looks at every message of a device that proves who it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from foredraft_shared.errors import Overloaded, PromptTooLong
from foredraft_shared.messages import Close, Decode, Draft, EdgeMessage, Failure, Hello, Open, Resume
from foredraft_shared.token_bucket import TokenBucket
from foredraft_shared.transports.base import Peer

from .audit import Audit, short

__all__ = ["Caps", "Turnstile", "tokens_to_read"]


@dataclass(frozen=True, slots=True)
class Caps:
    """For each device. How many sessions it may hold is the engine's to count."""

    rounds_per_second: float = 200.0
    """Openings, resumes, drafts and decodes; twice as many at once, and one at least. A text that is to be read
    counts as one more round for every 512 tokens."""
    rounds_in_flight: int = 64
    """How many of these may wait for a pass to end."""
    messages_per_second: float = 1000.0
    """Everything else, greetings and pings; beyond it they are dropped without a word."""
    prompt_tokens: int = 131_072
    """Longest prompt."""


TOKENS_A_ROUND = 512


def tokens_to_read(message: EdgeMessage) -> int:
    """Tokens of the text that a message brings."""
    if isinstance(message, Open):
        return len(message.prompt)
    return len(message.tokens) if isinstance(message, Resume | Draft) else 0


class Turnstile:
    """Counts what devices ask for."""

    def __init__(self, caps: Caps, audit: Audit, clock: Callable[[], float] = time.monotonic) -> None:
        self._caps = caps
        self._audit = audit
        self._clock = clock
        # One of each a device: as many as the key store lets in.
        self._rounds: dict[str, TokenBucket] = {}
        self._messages: dict[str, TokenBucket] = {}

    def passes(self, peer: Peer, message: EdgeMessage) -> Failure | bool:
        """Whether to take a message; a :class:`Failure` is the answer to one that is refused."""
        if isinstance(message, Open | Resume) and (refusal := self._too_long(peer, message)) is not None:
            return refusal
        if not peer.identity or isinstance(message, Close):
            return True  # closing costs nothing and frees something
        if not isinstance(message, Open | Resume | Draft | Decode):
            wait_s = self._bucket(self._messages, peer.identity, self._caps.messages_per_second).take()
            return wait_s == 0.0 or self._refused(peer, "too many messages", drop=not isinstance(message, Hello))
        bucket = self._bucket(self._rounds, peer.identity, self._caps.rounds_per_second)
        wait_s = bucket.take(1.0 + tokens_to_read(message) / TOKENS_A_ROUND)
        if wait_s > 0.0:
            self._audit.refused("too many rounds", key=short(peer.identity))
            return Failure(
                Overloaded.code,
                f"this device asks for more than {self._caps.rounds_per_second:g} rounds a second; draft longer, or let the "
                "cloud write alone.",
                Overloaded.retryable,
                message.session,
                max(1, round(wait_s * 1000)),
            )
        return True

    def forget(self, identity: str) -> None:
        """Drop what is counted for a device that is no longer let in."""
        self._rounds.pop(identity, None)
        self._messages.pop(identity, None)

    def _too_long(self, peer: Peer, message: Open | Resume) -> Failure | None:
        length = len(message.prompt) if isinstance(message, Open) else message.prompt_length
        if length <= self._caps.prompt_tokens:
            return None
        self._audit.refused("prompt too long", key=short(peer.identity), tokens=length)
        return Failure(
            PromptTooLong.code,
            f"the prompt has {length} tokens, this server takes {self._caps.prompt_tokens}; shorten it.",
            PromptTooLong.retryable,
            message.session,
        )

    def _refused(self, peer: Peer, what: str, *, drop: bool) -> Failure | bool:
        self._audit.refused(what, key=short(peer.identity))
        return False if drop else Failure(Overloaded.code, f"{what} from this device; wait a second.", True, b"", 1000)

    def _bucket(self, buckets: dict[str, TokenBucket], identity: str, per_second: float) -> TokenBucket:
        if identity not in buckets:
            # Not less than one: a bucket asks nobody for more than it can hold, and would let a part pay for the whole.
            buckets[identity] = TokenBucket(per_second, max(1.0, 2 * per_second), self._clock)
        return buckets[identity]
