"""The door of the token plane: CURVE with an allow-list, and a line in the audit log for whoever stays outside.

Libzmq asks an authenticator (``ZAP``, pyzmq runs it in a thread) about every handshake; what is refused before that, since
the other side does not encrypt or expects another server, is told by the socket's monitor.

While the key store cannot be read, nobody can be told from a device that was revoked. So nobody new is let in: he is told to
try again later (status 300 of ZAP), and does. Who is connected may speak for a few seconds more; then nobody may, until the
store can be read. Unless another program merely holds it: then nothing can have been revoked in it either.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType

import zmq
from typing_extensions import Self
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from foredraft_shared.errors import KeyStoreBusy
from foredraft_shared.transports.curve import ZAP_DOMAIN, KeyPair, server_keys

from .audit import NO_KEYS, Audit, Knocks, short
from .keys import KeyStore

__all__ = ["Access"]

_LOOK_EVERY_S = 0.5
_BLIND_S = 10.0
"""For how long devices that are connected may go on when nobody has looked for keys that were revoked. Longer than the key
store waits for another program."""
_EVENTS = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_MONITOR_STOPPED
_MECHANISM_MISMATCH = 0x11000002  # ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
_CRYPTOGRAPHIC = 0x11000001  # ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC


class _Authenticator(ThreadAuthenticator):
    """Pyzmq's own, which knows no refusal but a final one: a device that hears 400 does not try again."""

    for_now = False
    """Whether what is being refused may be let in later; of the authenticator's thread."""

    def _send_zap_reply(
        self, request_id: bytes, status_code: bytes, status_text: bytes, user_id: str = "anonymous"
    ) -> None:
        code = b"300" if status_code == b"400" and self.for_now else status_code
        super()._send_zap_reply(request_id, code, status_text, user_id)


class Access:
    """Give its ``context``, :meth:`secure` and :meth:`admits` to a listener; close it after that.

    Args:
        store: who is let in.
        keys: the server's own.
    """

    def __init__(self, store: KeyStore, keys: KeyPair, audit: Audit) -> None:
        self._store = store
        self._audit = audit
        self._knocks = Knocks(audit)
        self._secure = server_keys(keys)
        self._revoked: Mapping[str, str] = store.revoked()
        """Replaced as a whole: three threads look into it."""
        self._looked_at = math.inf
        """When it was last known who is revoked."""
        self._told_of: set[str] = set()
        """Revoked devices whose talking on has its line."""
        self._watching: threading.Thread | None = None
        self._closing = threading.Event()
        self._monitor: zmq.Socket[bytes] | None = None
        self._listening: threading.Thread | None = None
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._authenticator = _Authenticator(self.context)
        self._authenticator.start()
        # The exact domain: with '*' pyzmq refuses sockets that name one.
        self._authenticator.configure_curve_callback(domain=ZAP_DOMAIN, credentials_provider=self)

    def secure(self, socket: zmq.Socket[bytes]) -> None:
        """Set keys and domain of the listener's socket, and listen to its monitor; of its next one, when the first is closed."""
        self._secure(socket)
        if self._listening is not None:
            self._listening.join(5.0)
        self._monitor = socket.get_monitor_socket(_EVENTS)
        self._listening = threading.Thread(target=self._listen, name="foredraft-handshakes", daemon=True)
        self._listening.start()

    def admits(self, identity: str) -> bool:
        """Whether a device that is connected may still speak; called by the listener for each message, and never waits."""
        if not identity or self._blind():
            return False  # without an identity: cannot be, the authenticator names whom it lets in
        if identity in self._revoked:
            if identity not in self._told_of:  # what it had said before it was cut off is read message by message
                self._told_of.add(identity)
                self._audit.refused("revoked", device=self._revoked[identity], key=short(identity))
            return False
        return True

    def watch(self, revoked: Callable[[frozenset[str]], object]) -> None:
        """From now on look for keys that are being revoked, and call ``revoked`` with them, on another thread."""
        self._looked_at = time.monotonic()
        self._watching = threading.Thread(target=self._watch, args=(revoked,), name="foredraft-revoked", daemon=True)
        self._watching.start()

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a key is let in; called by pyzmq on the authenticator's thread."""
        public_key = z85.encode(key).decode() if len(key) == 32 else key.decode("ascii", "replace")
        try:
            admitted = self._store.admits(public_key)
            name = "" if admitted else self._store.name_of(public_key)
        except Exception as error:  # whatever it is must not let anybody in, nor end the thread
            self._authenticator.for_now = True
            self._audit.refused("the key store cannot be read", error=str(error) or repr(error), key=short(public_key))
            return False
        self._authenticator.for_now = False
        if not admitted:
            self._audit.refused("revoked" if name else "not enrolled", device=name, key=short(public_key))
        return admitted

    def close(self) -> None:
        """Stop authenticating; when the listener is closed."""
        self._closing.set()
        if self._watching is not None:
            self._watching.join(5.0)
        if self._monitor is not None and self._listening is not None:
            self._listening.join(5.0)
        self._authenticator.stop()
        self.context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _watch(self, revoked: Callable[[frozenset[str]], object]) -> None:
        told = 0
        while not self._closing.wait(_LOOK_EVERY_S):
            try:
                now = self._store.revoked()
            except Exception as error:  # without this thread nobody would ever be revoked
                if self._closing.is_set():
                    return
                if isinstance(error, KeyStoreBusy):
                    self._looked_at = time.monotonic()
                why = str(error) or repr(error)
                lines = ["the key store cannot be read"]
                if self._blind():
                    lines.append("everybody, until the key store can be read")
                for line in lines[told:]:  # not twice a second
                    told += 1
                    self._audit.refused(line, error=why)
                continue
            fresh = {key: name for key, name in now.items() if key not in self._revoked}
            self._revoked = {**self._revoked, **fresh}  # first: what it says from now on is not taken any more
            self._looked_at = time.monotonic()
            if told:
                told = 0
                self._audit.done("the key store can be read again")
            if fresh:
                for key, name in fresh.items():
                    self._audit.done("revoked", device=name, key=short(key))
                revoked(frozenset(fresh))

    def _blind(self) -> bool:
        return time.monotonic() - self._looked_at > _BLIND_S

    def _listen(self) -> None:
        assert self._monitor is not None
        with self._monitor as monitor, contextlib.suppress(zmq.ContextTerminated):
            while (event := recv_monitor_message(monitor))["event"] != zmq.EVENT_MONITOR_STOPPED:
                if event["event"] == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                    # Who has no keys may see that we want some, and hang up, before it has said so.
                    self._knocks.hung_up()
                elif event["value"] == _MECHANISM_MISMATCH:
                    self._knocks.refused(NO_KEYS)
                elif event["value"] == _CRYPTOGRAPHIC:
                    self._knocks.refused("expects another server key")
                else:
                    self._knocks.refused("broken handshake", code=hex(event["value"]))
