"""The edge's side of a connection: greeting, errors as exceptions, and the session's messages."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from foredraft_shared import errors
from foredraft_shared.messages import (
    PROTOCOL_VERSION,
    EdgeMessage,
    Failure,
    GoAway,
    Hello,
    Hint,
    NeedResume,
    Ping,
    Pong,
    Resync,
    Verdict,
    Welcome,
)
from foredraft_shared.transports.base import Transport

__all__ = ["Link", "SessionMessage", "error_from"]

SessionMessage: TypeAlias = Verdict | Hint | Resync | NeedResume | Failure
"""What a server says of a session; a failure without one concerns the whole connection."""


def _every(kind: type[errors.ForedraftError]) -> dict[str, type[errors.ForedraftError]]:
    found = {kind.code: kind}
    for child in kind.__subclasses__():
        found.update(_every(child))
    return found


def error_from(failure: Failure) -> errors.ForedraftError:
    """The exception for a server's failure: of the class that ``code`` names, :class:`ServerRefused` if unknown."""
    kind = _every(errors.ForedraftError).get(failure.code, errors.ServerRefused)
    if issubclass(kind, errors.Overloaded):
        return kind(failure.message, failure.retry_after_ms)
    return kind(failure.message)


class Link:
    """A greeted transport. Used by one thread.

    Args:
        transport: connected, or connecting.
        where: what to call the server in errors.
        fingerprint: of the tokenizer drafted with, or empty.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        where: str,
        fingerprint: str = "",
        device: str = "",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.transport = transport
        self.where = where
        self.clock = clock
        self.rtt_ms = 0.0
        """Round trip of the greeting, milliseconds."""
        self.going_away: GoAway | None = None
        """What the server said when it began to stop."""
        self._hello = Hello(PROTOCOL_VERSION, fingerprint, device)

    def greet(self, timeout_s: float = 5.0) -> Welcome:
        """Say hello until the server answers.

        Raises:
            LinkLost: nobody answered within ``timeout_s``.
            ProtocolMismatch, VocabularyMismatch: the server refuses this device, and says why.
        """
        deadline = self.clock() + timeout_s
        interval = 0.5
        while True:
            sent_at = self.clock()
            greeted = True
            try:
                self.send(self._hello)
            except errors.LinkLost:
                greeted = False  # the connection is not up yet
            until = min(deadline, sent_at + (interval if greeted else 0.02))
            while True:
                message = self.transport.receive(max(0.0, until - self.clock()))
                if isinstance(message, Welcome):
                    self.rtt_ms = (self.clock() - sent_at) * 1000.0
                    if message.protocol != PROTOCOL_VERSION:
                        raise errors.ProtocolMismatch(
                            f"the server speaks protocol {message.protocol}, this device {PROTOCOL_VERSION}; "
                            "install the same version of foredraft on both."
                        )
                    return message
                if isinstance(message, Failure):
                    raise error_from(message)
                if message is None and self.clock() >= until:
                    break
            if self.clock() >= deadline:
                raise errors.LinkLost(
                    f"no answer from {self.where} within {timeout_s:g} s; is the server running there "
                    "(`foredraft serve`), and is the address right?"
                )
            interval = min(2.0, interval * 2)

    def ping(self, nonce: int, timeout_s: float = 1.0) -> float | None:
        """Round trip to the server's own code in milliseconds, or ``None`` if it did not answer in time."""
        begun = self.clock()
        self.send(Ping(nonce))
        while (left := begun + timeout_s - self.clock()) > 0:
            message = self.transport.receive(left)
            if isinstance(message, Pong) and message.nonce == nonce:
                return (self.clock() - begun) * 1000.0
        return None

    def send(self, message: EdgeMessage) -> None:
        """Raises LinkLost if it cannot be handed to the network."""
        self.transport.send(message)

    def receive(self, timeout_s: float) -> SessionMessage | None:
        """The next message that concerns a session, or ``None`` after ``timeout_s``; 0 only looks."""
        message = self.transport.receive(timeout_s)
        if isinstance(message, GoAway):
            self.going_away = message
            with suppress(errors.LinkLost):
                self.send(GoAway())  # the server closes once this says that we have read what it said last
            return None
        if isinstance(message, Pong | Welcome):
            return None
        return message

    def close(self) -> None:
        self.transport.close()
