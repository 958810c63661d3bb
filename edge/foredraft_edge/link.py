"""The edge's side of a connection: greeting, errors as exceptions, and the session's messages."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol, TypeAlias

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

__all__ = ["Link", "Served", "SessionMessage", "described", "error_from", "same"]

SessionMessage: TypeAlias = Verdict | Hint | Resync | NeedResume | Failure | GoAway | Pong | Welcome
"""What a server says of a session, or of itself; a failure without a session concerns the whole connection."""


class Served(Protocol):
    """What a text's tokens depend on at the server; what :class:`Welcome` says of it, or a saved text."""

    @property
    def model(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def lossy_exit(self) -> int: ...


def described(what: Served) -> str:
    """In words, for errors."""
    depth = f", layer {what.lossy_exit} taken as final" if what.lossy_exit else ""
    return f"{what.model} ({what.dtype}, tokenizer {what.fingerprint[:8]}{depth})"


def same(one: Served, other: Served) -> bool:
    """Whether a text begun with one may be continued by the other."""
    return all(getattr(one, name) == getattr(other, name) for name in ("model", "dtype", "fingerprint", "lossy_exit"))


_DOUBTFUL_MS = 30.0
"""A greeting that takes longer, or is repeated, may have waited for a server that was still loading or a device that was
busy; a ping tells. What is taken for the round trip decides how late a verdict may be."""


_KINDS: dict[str, type[errors.ForedraftError]] = {
    kind.code: kind
    for kind in (getattr(errors, name) for name in errors.__all__)
    if issubclass(kind, errors.ForedraftError)
}
"""Those that a peer may name; others, of packages of their own, may want more than a message."""


def error_from(failure: Failure) -> errors.ForedraftError:
    """The exception for a server's failure: of the class that ``code`` names, :class:`ServerRefused` if unknown."""
    kind = _KINDS.get(failure.code, errors.ServerRefused)
    if issubclass(kind, errors.Overloaded):
        return kind(failure.message, failure.retry_after_ms)
    return kind(failure.message)


class Link:
    """A greeted transport. Used by one thread.

    Args:
        transport: connected, or connecting.
        where: what to call the server in errors.
        fingerprint: of the tokenizer drafted with, or empty; see :meth:`identify`.
        check: asked about whatever a server says that it is, by :meth:`greet` and :meth:`receive`; raises if no text may be
            written with it. Verdicts of a server that has not passed are not taken.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        where: str,
        fingerprint: str = "",
        device: str = "",
        clock: Callable[[], float] = time.perf_counter,
        check: Callable[[Welcome], None] | None = None,
    ) -> None:
        self.transport = transport
        self.where = where
        self.clock = clock
        self.rtt_ms = 0.0
        """Round trip when it was greeted, milliseconds."""
        self.going_away: GoAway | None = None
        """What the server said when it began to stop."""
        self.welcome: Welcome | None = None
        """What the server said that it is; ``None`` until it has said so."""
        self.known = False
        """Whether a text may be written with the server, by what it said last that it is."""
        self._check = check
        self._hello = Hello(PROTOCOL_VERSION, fingerprint, device)

    def identify(self, fingerprint: str) -> None:
        """Say from the next greeting on that this tokenizer is drafted with: a draft may be loaded after the first one."""
        self._hello = replace(self._hello, fingerprint=fingerprint)

    def greet(self, timeout_s: float = 5.0) -> Welcome:
        """Say hello until the server answers.

        Raises:
            LinkLost: nobody answered within ``timeout_s``.
            ProtocolMismatch, VocabularyMismatch: the server refuses this device, and says why.
        """
        deadline = self.clock() + timeout_s
        interval = 0.5
        hellos = 0
        while True:
            sent_at = self.clock()
            if not hellos:
                first_at = sent_at
            greeted = True
            try:
                self.send(self._hello)
                hellos += 1
            except errors.LinkLost:
                greeted = False  # the connection is not up yet
            until = min(deadline, sent_at + (interval if greeted else 0.02))
            while True:
                message = self.transport.receive(max(0.0, until - self.clock()))
                if isinstance(message, Welcome):
                    self.rtt_ms = (self.clock() - first_at) * 1000.0
                    self._admit(message)
                    if hellos > 1 or self.rtt_ms > _DOUBTFUL_MS:
                        with suppress(errors.LinkLost):
                            self.rtt_ms = self.ping(0, self.rtt_ms / 1000.0) or self.rtt_ms
                    return message
                if isinstance(message, Failure):
                    raise error_from(message)
                if message is None and self.clock() >= until:
                    break
            if self.clock() >= deadline:
                raise errors.LinkLost(
                    f"no answer from {self.where} within {round(timeout_s, 2):g} s; is the server running there "
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

    def hello(self) -> None:
        """Greet the server again, which may be another process by now; :meth:`receive` looks at what it answers."""
        self.send(self._hello)

    def send_ping(self, nonce: int) -> None:
        """Ask whether the server's own code runs, without waiting for the answer."""
        self.send(Ping(nonce))

    def reconnect(self) -> None:
        """Give up the present connection and make a new one."""
        self.transport.reconnect()

    def send(self, message: EdgeMessage) -> None:
        """Raises LinkLost if it cannot be handed to the network."""
        self.transport.send(message)

    def receive(self, timeout_s: float) -> SessionMessage | None:
        """The next message, or ``None`` after ``timeout_s``; 0 only looks.

        Raises:
            ModelChanged: the server is not what it was when it was greeted.
            ProtocolMismatch, and what the client's check raises: nobody had answered before, and no text may be written
                with who does now.
        """
        message = self.transport.receive(timeout_s)
        if isinstance(message, GoAway):
            self.going_away = message
            with suppress(errors.LinkLost):
                self.send(GoAway())  # the server closes once this says that we have read what it said last
        elif isinstance(message, Welcome):
            self._admit(message)
        elif isinstance(message, Verdict | Hint) and self._check is not None and not self.known:
            with suppress(errors.LinkLost):
                self.hello()  # its tokens may be of another vocabulary: first it has to say what it is
            return None
        return message

    def _admit(self, welcome: Welcome) -> None:
        """Believe the server, if a text may be written with it."""
        self.known = False
        if welcome.protocol != PROTOCOL_VERSION:
            raise errors.ProtocolMismatch(
                f"the server speaks protocol {welcome.protocol}, this device {PROTOCOL_VERSION}; "
                "install the same version of foredraft on both."
            )
        if self.welcome is not None:
            self._recognise(welcome, self.welcome)
        if self._check is not None:
            self._check(welcome)
        self.welcome, self.known = welcome, True

    def _recognise(self, now: Welcome, before: Welcome) -> None:
        """A text begun with one model must not be continued by another."""
        if not same(now, before):
            raise errors.ModelChanged(
                f"{self.where} came back with {described(now)} in place of {described(before)}; connect anew and ask again."
            )

    def close(self) -> None:
        self.transport.close()
