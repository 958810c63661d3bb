"""The server: sockets on one thread, the model on another.

The socket thread (the caller of :meth:`Server.serve`) answers greetings and pings by itself, so that they never wait for
the model, and passes everything else on. The model thread runs the :class:`~foredraft_cloud.engine.Engine`. Between them
are two queues; neither thread ever waits for the other.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from queue import Empty, SimpleQueue
from typing import Literal, TypeAlias

import structlog

from foredraft_shared.errors import NotEnrolled, ProtocolMismatch, VocabularyMismatch
from foredraft_shared.messages import (
    PROTOCOL_VERSION,
    CloudMessage,
    EdgeMessage,
    Failure,
    GoAway,
    Hello,
    Open,
    Ping,
    Pong,
    Welcome,
)
from foredraft_shared.transports.base import Counters, Listener, Peer

from .audit import Audit
from .caps import Caps, Turnstile
from .engine import Engine, EngineOptions, EngineStatistics
from .observer import Observer, Unobserved
from .target import Target

__all__ = ["Health", "Server"]

log = structlog.get_logger("foredraft.server")

PARTING_S = 1.0
"""How long a server that stops waits for devices to read its goodbye; one that is idle may not look for hours."""

Health: TypeAlias = Literal["ready", "draining", "failed"]
"""``draining``: sessions that are open go on, new ones are refused. ``failed``: the model thread has ended."""


class Server:
    """A target behind a listener.

    Args:
        target: used on the model thread only, once :meth:`serve` runs.
        listener: used on the thread that calls :meth:`serve` only, but for its ``wake``.
        model: what the server calls its model.
        fingerprint: of the target's tokenizer; devices that draft with another one are refused.
        dtype: as told to devices.
        caps: what each device that proves who it is may ask for.
        observer: told of what happens, on either thread (see :mod:`.observer`).
    """

    def __init__(
        self,
        target: Target,
        listener: Listener,
        *,
        model: str,
        fingerprint: str,
        dtype: str = "",
        options: EngineOptions | None = None,
        caps: Caps | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._options = options or EngineOptions()
        self._listener = listener
        self._observer = observer or Unobserved()
        self._engine = Engine(target, self._answer, self._options, observer=self._observer)
        self._turnstile = Turnstile(caps or Caps(), Audit())
        self._inbox: SimpleQueue[tuple[Peer, EdgeMessage, int] | Callable[[], None] | None] = SimpleQueue()
        self._outbox: deque[tuple[Peer, CloudMessage]] = deque()
        self._errands: deque[Callable[[], None]] = deque()
        self._drained_by: float | None = None
        self._stopping = threading.Event()
        self._failed: BaseException | None = None
        self._peers: set[Peer] = set()
        self.welcome = Welcome(
            protocol=PROTOCOL_VERSION,
            server_epoch=secrets.randbits(32) | 1,
            model=model,
            fingerprint=fingerprint,
            vocabulary=target.vocabulary,
            context=target.context,
            exits=tuple(target.exits),
            dtype=dtype,
            max_draft=self._options.max_draft,
        )

    @property
    def statistics(self) -> EngineStatistics:
        """The engine's counts: numbers that only grow, written on the model thread."""
        return self._engine.statistics

    @property
    def health(self) -> Health:
        """Whether devices are served; from any thread."""
        if self._failed is not None:
            return "failed"
        return "draining" if self._stopping.is_set() or self._drained_by is not None else "ready"

    @property
    def cache_usage(self) -> float:
        """Share of the cache that sessions have taken, from 0 to 1; from any thread."""
        return self._engine.cache_usage

    @property
    def wire(self) -> Counters:
        """What went over the token plane."""
        return self._listener.counters

    def stop(self) -> None:
        """End :meth:`serve`; from any thread, or from a signal handler."""
        self._stopping.set()
        self._listener.wake()

    def forget_devices(self, identities: Collection[str]) -> None:
        """Tell devices that they are no longer let in, and free what is held for them; from any thread."""

        def tell() -> None:
            refusal = Failure(
                NotEnrolled.code,
                "this device's key has been revoked; ask the operator for a token, then run `foredraft enroll`.",
            )
            for peer in [peer for peer in self._peers if peer.identity in identities]:
                self._listener.send(peer, refusal)
                self._peers.discard(peer)
            for identity in identities:
                self._inbox.put(partial(self._engine.forget_device, identity))

        self._errands.append(tell)
        self._listener.wake()

    def drain(self, grace_s: float) -> int:
        """Take no new sessions, and stop once those that are open are over, or after ``grace_s``; from any thread.

        Returns:
            How many sessions are open.
        """

        def say_goodbye() -> None:
            for peer in self._peers:
                self._listener.send(peer, self._going_away())

        if self._drained_by is None:
            self._drained_by = time.monotonic() + grace_s
            self._errands.append(say_goodbye)
            self._listener.wake()
        return self._engine.sessions

    def serve(self) -> None:
        """Answer devices until :meth:`stop`.

        Raises:
            Exception: whatever ended the model thread, if something did.
        """
        model_thread = threading.Thread(target=self._think, name="foredraft-model", daemon=True)
        model_thread.start()
        try:
            while not self._stopping.is_set():
                received = self._listener.receive(1.0 if self._drained_by is None else 0.1)
                if received is not None:
                    self._take(*received)
                while self._errands:  # after it: what a device said before it was sent away is forgotten with the rest
                    self._errands.popleft()()
                self._flush()
                if self._drained_by is not None and (
                    time.monotonic() > self._drained_by or (self._inbox.empty() and self._engine.sessions == 0)
                ):
                    break
        finally:
            self._stopping.set()
            self._inbox.put(None)
            model_thread.join(timeout=10.0)
            self._flush()
            self._part()
            self._listener.close()
        if self._failed is not None:
            raise self._failed

    # --- socket thread

    def _part(self) -> None:
        """Say goodbye, and give devices a moment to say that they have read it.

        What a device has received but not read is lost to it when we close (see ``docs/protocol.md``): the last verdict as
        well as the goodbye.
        """
        unread = set(self._peers)
        deadline = time.monotonic() + PARTING_S
        say_at = 0.0
        while unread and (now := time.monotonic()) < deadline:
            if now >= say_at:  # again and again, since that is how we learn of those who are gone
                unread = {peer for peer in unread if self._listener.send(peer, self._going_away())}
                say_at = now + PARTING_S / 10
            received = self._listener.receive(min(say_at, deadline) - now)
            if received is not None and isinstance(received[1], GoAway):
                unread.discard(received[0])

    def _take(self, peer: Peer, message: EdgeMessage) -> None:
        passes = self._turnstile.passes(peer, message)
        if isinstance(passes, Failure):
            self._refuse(peer, passes, audited=True)
        elif not passes:
            pass
        elif self._drained_by is not None and isinstance(message, Hello | Open):
            self._listener.send(peer, self._going_away())
        elif isinstance(message, GoAway):
            pass  # has read ours, and goes on until its texts are done
        elif isinstance(message, Ping):
            self._listener.send(peer, Pong(message.nonce))
        elif isinstance(message, Hello):
            greeting = self._greet(peer, message)
            if isinstance(greeting, Failure):
                self._refuse(peer, greeting)
            else:
                self._listener.send(peer, greeting)
        else:
            self._inbox.put((peer, message, time.perf_counter_ns()))

    def _refuse(self, peer: Peer, failure: Failure, *, audited: bool = False) -> None:
        self._listener.send(peer, failure)
        self._observer.refused(failure.code, failure.session, peer.identity, audited=audited)

    def _going_away(self) -> GoAway:
        left_s = 0.0 if self._drained_by is None else max(0.0, self._drained_by - time.monotonic())
        return GoAway(retry_after_ms=1000 + round(left_s * 1000))

    def _greet(self, peer: Peer, hello: Hello) -> CloudMessage:
        if hello.protocol != PROTOCOL_VERSION:
            return Failure(
                ProtocolMismatch.code,
                f"the device speaks protocol {hello.protocol}, this server {PROTOCOL_VERSION}; "
                "install the same version of foredraft on both.",
            )
        if hello.fingerprint and hello.fingerprint != self.welcome.fingerprint:
            return Failure(
                VocabularyMismatch.code,
                f"the device's draft has the tokenizer {hello.fingerprint[:12]}, but {self.welcome.model} on this server "
                f"has {self.welcome.fingerprint[:12]}; use a draft of the target's own family.",
            )
        self._peers.add(peer)
        log.info("device connected", device=hello.device or "unnamed")
        return self.welcome

    def _flush(self) -> None:
        while self._outbox:
            peer, message = self._outbox.popleft()
            if not self._listener.send(peer, message):
                self._peers.discard(peer)

    # --- model thread

    def _answer(self, peer: Peer, message: CloudMessage) -> None:
        self._outbox.append((peer, message))
        self._listener.wake()

    def _think(self) -> None:
        try:
            while not self._stopping.is_set():
                self._read(block=False)
                if not self._engine.step():
                    self._read(block=True)
        except BaseException as error:
            log.error("the model thread failed; the server stops", error=repr(error))
            self._failed = error
            self.stop()

    def _read(self, *, block: bool) -> None:
        """Take in what devices have said; with ``block``, wait for the first of it."""
        while True:
            try:
                received = self._inbox.get(block=block, timeout=1.0 if block else None)
            except Empty:
                return
            if received is None:
                return
            if callable(received):
                received()
            else:
                self._engine.receive(*received)
            block = False
