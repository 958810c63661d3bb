"""The server: sockets on one thread, the model on another.

The socket thread (the caller of :meth:`Server.serve`) answers greetings and pings by itself, so that they never wait for
the model, and passes everything else on. The model thread runs the :class:`~foredraft_cloud.engine.Engine`. Between them
are two queues; neither thread ever waits for the other. What does not fit into the first is refused (:mod:`.inbox`).
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, TypeAlias

import structlog

from foredraft_shared.errors import NotEnrolled, Overloaded, ProtocolMismatch, VocabularyMismatch
from foredraft_shared.limits import MAX_MESSAGE_BYTES
from foredraft_shared.messages import (
    PROTOCOL_VERSION,
    Close,
    CloudMessage,
    EdgeMessage,
    Failure,
    GoAway,
    Hello,
    Hint,
    Open,
    Ping,
    Pong,
    Resume,
    SessionId,
    Verdict,
    Welcome,
)
from foredraft_shared.token_bucket import TokenBucket
from foredraft_shared.transports.base import Counters, Listener, Peer
from foredraft_shared.transports.peer_table import PeerTable

from .audit import Audit, printable
from .caps import Caps, Turnstile, tokens_to_read
from .engine import Engine, EngineOptions, EngineStatistics
from .inbox import Errand, Inbox
from .observer import Observer, Unobserved
from .target import Target

__all__ = ["Health", "Server"]

log = structlog.get_logger("foredraft.server")

PARTING_S = 1.0
"""How long a server that stops waits for devices to read its goodbye; one that is idle may not look for hours."""

QUIET_S = 1.0
"""While a server drains, texts that say nothing for so long do not hold it up: their devices keep them."""
_BUSY_RETRY_MS = 200
_TOKEN_BYTES = 5
_OTHER_BYTES = 64 * 1024

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
        self._engine = Engine(target, self._answer, self._options, observer=self._observer, overhear=self._overhear)
        caps = caps or Caps()
        self._turnstile = Turnstile(caps, Audit())
        self._inbox = Inbox(caps.rounds_in_flight)
        self._outbox: deque[tuple[Peer, CloudMessage]] = deque()
        self._errands: deque[Callable[[], None]] = deque()
        self._drained_by: float | None = None
        self._on_drain: list[Callable[[], object]] = []
        self._stopping = threading.Event()
        self._hurried = False
        self._failed: BaseException | None = None
        self._peers: PeerTable[None] = PeerTable(lambda: None)
        self._greetings_told = TokenBucket(10.0, 50.0)
        self._unread: set[tuple[Peer, SessionId]] = set()
        self._model_rests = True
        self._worked_at = time.monotonic()
        # A prompt that the target cannot hold is refused by its length, or reading it would take longer than a pass.
        listener.take_messages_of(min(MAX_MESSAGE_BYTES, target.context * _TOKEN_BYTES + _OTHER_BYTES))
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
            lossy_exit=self._options.lossy_exit,
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
        """End :meth:`serve`; from any thread, or from a signal handler. A second time: without waiting for anybody."""
        self._hurried = self._stopping.is_set()
        self._stopping.set()
        self._listener.wake()

    def on_drain(self, call: Callable[[], object]) -> None:
        """Have ``call`` called, on the socket thread, when the server begins to drain."""
        self._on_drain.append(call)

    def forget_devices(self, identities: Collection[str]) -> None:
        """Tell devices that they are no longer let in, and free what is held for them; from any thread."""

        def tell() -> None:
            refusal = Failure(
                NotEnrolled.code,
                "this device's key has been revoked; ask the operator for a token, then run `foredraft enroll`.",
            )
            for identity in identities:
                for peer in self._peers.of(identity):
                    self._listener.send(peer, refusal)
                    self._peers.forget(peer)
                self._turnstile.forget(identity)
                self._inbox.tell(partial(self._engine.forget_device, identity))

        self._errands.append(tell)
        self._listener.wake()

    def drain(self, grace_s: float) -> int:
        """Take no new sessions, finish what is asked for, and stop: when all sessions are over or silent, or after ``grace_s``.

        From any thread, or from a signal handler.

        Returns:
            How many sessions are open.
        """

        def begin() -> None:
            log.info("draining", sessions=self._engine.sessions, grace_s=round(grace_s, 1))
            for call in self._on_drain:
                call()
            for peer in self._peers:
                self._listener.send(peer, self._going_away())

        if self._drained_by is None:
            self._drained_by = time.monotonic() + grace_s
            self._errands.append(begin)
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
                if self._drained():
                    break
        finally:
            self._stopping.set()
            self._inbox.tell(lambda: None)  # wakes the model thread
            until = time.monotonic() + 10.0
            while model_thread.is_alive() and not self._hurried and time.monotonic() < until:
                model_thread.join(timeout=0.1)
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
        while unread and not self._hurried and (now := time.monotonic()) < deadline:
            if now >= say_at:  # again and again, since that is how we learn of those who are gone
                unread = {peer for peer in unread if self._listener.send(peer, self._going_away())}
                say_at = now + PARTING_S / 10
            received = self._listener.receive(min(say_at, deadline) - now)
            if received is not None and isinstance(received[1], GoAway):
                unread.discard(received[0])

    def _drained(self) -> bool:
        if self._drained_by is None:
            return False
        now = time.monotonic()
        idle = self._model_rests and not self._inbox and not self._outbox
        return now > self._drained_by or (idle and (self._engine.active == 0 or now > self._worked_at + QUIET_S))

    def _take(self, peer: Peer, message: EdgeMessage) -> None:
        passes = self._turnstile.passes(peer, message)
        if isinstance(passes, Failure):
            self._refuse(peer, passes, audited=True)
            return
        if not passes:
            return
        new = peer not in self._peers
        self._peers.entry(peer)
        if self._drained_by is not None and isinstance(message, Hello | Open | Resume):
            self._listener.send(peer, self._going_away())
            self._refuse(
                peer, self._overloaded(message, "the server is about to stop", self._going_away().retry_after_ms)
            )
        elif isinstance(message, GoAway):
            pass  # has read ours, and goes on until its texts are done
        elif isinstance(message, Ping):
            self._listener.send(peer, Pong(message.nonce))
        elif isinstance(message, Hello):
            refusal = self._refusal(message)
            if refusal is not None:
                self._refuse(peer, refusal)
                return
            pass_us, row_us = map(round, self._engine.pass_line)
            self._listener.send(peer, replace(self.welcome, pass_us=pass_us, row_us=row_us))
            if new and self._greetings_told.take() == 0.0:
                log.info("device connected", device=printable(message.device) or "unnamed")
        else:
            self._worked_at = time.monotonic()
            errand = partial(self._engine.receive, peer, message, time.perf_counter_ns())
            room = self._inbox.put(peer.identity or peer, errand, tokens=tokens_to_read(message))
            if not room and not isinstance(message, Close):  # a session that is not closed is evicted in time
                self._refuse(peer, self._overloaded(message, "too much waits for the model already", _BUSY_RETRY_MS))

    def _overloaded(self, message: EdgeMessage, why: str, retry_after_ms: int) -> Failure:
        sentence = f"{why}; try again in {retry_after_ms / 1000:.1f} s, or use another server."
        return Failure(Overloaded.code, sentence, True, getattr(message, "session", b""), retry_after_ms)

    def _refuse(self, peer: Peer, failure: Failure, *, audited: bool = False) -> None:
        self._listener.send(peer, failure)
        self._observer.refused(failure.code, failure.session, peer.identity, audited=audited)

    def _going_away(self) -> GoAway:
        left_s = 0.0 if self._drained_by is None else max(0.0, self._drained_by - time.monotonic())
        return GoAway(retry_after_ms=1000 + round(left_s * 1000))

    def _refusal(self, hello: Hello) -> Failure | None:
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
        return None

    def _flush(self) -> None:
        for _ in range(len(self._outbox)):  # what comes meanwhile is for the next time: devices want to be heard, too
            peer, message = self._outbox.popleft()
            self._worked_at = time.monotonic()
            if isinstance(message, Verdict) and (peer, message.session) in self._unread:
                continue
            if not self._listener.send(peer, message):
                self._peers.forget(peer)
                if isinstance(message, Verdict):
                    self._unread.add((peer, message.session))
                    self._inbox.tell_once(self._give_up)

    # --- model thread

    def _give_up(self) -> None:
        """Work no longer for those who do not read."""
        while self._unread:
            self._engine.give_up(*self._unread.pop())

    def _answer(self, peer: Peer, message: CloudMessage) -> None:
        """Leave a message to the socket thread, which is woken when all that there is to say has been left.

        Woken by each, it would take turns with the model thread for the interpreter, verdict by verdict; so it writes while
        the next pass computes.
        """
        self._outbox.append((peer, message))
        if isinstance(message, Hint):  # worth nothing later
            self._listener.wake()

    def _overhear(self) -> None:
        """Tell the engine, in the middle of a pass, what has come meanwhile."""
        self._work_off(self._inbox.take(0.0))

    def _work_off(self, errands: Sequence[Errand]) -> None:
        for errand in errands:
            errand()
        if self._outbox:
            self._listener.wake()

    def _think(self) -> None:
        worked = False
        try:
            while not self._stopping.is_set():
                self._model_rests = not worked
                # Where it is better to wait for rounds about to come, the engine says for how long.
                errands = self._inbox.take(0.0 if worked else self._engine.pause_s or 1.0)
                self._model_rests = False
                self._work_off(errands)
                worked = self._engine.step()
                if self._outbox:
                    self._listener.wake()
        except BaseException as error:
            log.error("the model thread failed; the server stops", error=repr(error))
            self._failed = error
            self._stopping.set()
            self._listener.wake()
