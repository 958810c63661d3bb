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
from queue import Empty, SimpleQueue

import structlog

from foredraft_shared.errors import ProtocolMismatch, VocabularyMismatch
from foredraft_shared.messages import (
    PROTOCOL_VERSION,
    CloudMessage,
    EdgeMessage,
    Failure,
    GoAway,
    Hello,
    Ping,
    Pong,
    Welcome,
)
from foredraft_shared.transports.base import Listener, Peer

from .engine import Engine, EngineOptions
from .target import Target

__all__ = ["Server"]

log = structlog.get_logger("foredraft.server")


class Server:
    """A target behind a listener.

    Args:
        target: used on the model thread only, once :meth:`serve` runs.
        listener: used on the thread that calls :meth:`serve` only, but for its ``wake``.
        model: what the server calls its model.
        fingerprint: of the target's tokenizer; devices that draft with another one are refused.
        dtype: as told to devices.
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
    ) -> None:
        self._options = options or EngineOptions()
        self._listener = listener
        self._engine = Engine(target, self._answer, self._options)
        self._inbox: SimpleQueue[tuple[Peer, EdgeMessage, int] | None] = SimpleQueue()
        self._outbox: deque[tuple[Peer, CloudMessage]] = deque()
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
    def statistics(self) -> object:
        """The engine's counts; read them after :meth:`serve` has returned."""
        return self._engine.statistics

    def stop(self) -> None:
        """End :meth:`serve`; from any thread, or from a signal handler."""
        self._stopping.set()
        self._listener.wake()

    def serve(self) -> None:
        """Answer devices until :meth:`stop`.

        Raises:
            Exception: whatever ended the model thread, if something did.
        """
        model_thread = threading.Thread(target=self._think, name="foredraft-model", daemon=True)
        model_thread.start()
        try:
            while not self._stopping.is_set():
                received = self._listener.receive(1.0)
                if received is not None:
                    self._take(*received)
                self._flush()
        finally:
            self._stopping.set()
            self._inbox.put(None)
            model_thread.join(timeout=10.0)
            self._flush()
            for peer in self._peers:
                self._listener.send(peer, GoAway(retry_after_ms=1000))
            self._listener.close()
        if self._failed is not None:
            raise self._failed

    # --- socket thread

    def _take(self, peer: Peer, message: EdgeMessage) -> None:
        if isinstance(message, Ping):
            self._listener.send(peer, Pong(message.nonce))
        elif isinstance(message, Hello):
            self._listener.send(peer, self._greet(peer, message))
        else:
            self._inbox.put((peer, message, time.perf_counter_ns()))

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
            self._engine.receive(*received)
            block = False
