"""A server with keys, its control plane, a toy target behind it, and a tap on the wire: what the tests of access stand on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toy_world import VOCABULARY

from foredraft_cloud.caps import Caps
from foredraft_cloud.engine import EngineOptions
from foredraft_cloud.identity import certificate
from foredraft_cloud.keys import KeyStore, written_token
from foredraft_cloud.listening import Listening
from foredraft_cloud.server import Server
from foredraft_cloud.toy import ToyPass, ToyTarget
from foredraft_edge import enrolment as enrolling
from foredraft_shared.transports.curve import KeyPair, client_keys
from foredraft_shared.transports.zmq import ZmqTransport

__all__ = ["Secured", "Tap", "one_line", "secured", "soon"]

WAIT_S = 5.0


class SlowToyTarget(ToyTarget):
    """A pass takes a while, so that something can happen in the middle of a text."""

    def verify(self, batch: Any, *, exits: bool = True) -> ToyPass:
        time.sleep(0.02)
        return super().verify(batch, exits=exits)


class Secured:
    """A server with keys, its control plane, and what an operator may do."""

    def __init__(self, folder: Path, listening: Listening, server: Server) -> None:
        self.folder = folder
        self.server = server
        self.listening = listening
        self.store = KeyStore(folder)
        self.address = listening.listener.address
        assert listening.control is not None
        self.control = listening.control.address
        self.fingerprint = certificate(folder).fingerprint

    def token(self, valid_s: float = 60.0) -> str:
        return written_token(self.store.make_token(valid_s), self.fingerprint)

    def device(self, name: str) -> tuple[enrolling.Enrolment, Callable[[], ZmqTransport]]:
        """An enrolled device, and what connects it. The test's own enrolment file is the last one made."""
        made = enrolling.enrol(self.control, self.token(), name)
        keys = KeyPair(made.public_key, made.secret_key)
        return made, lambda: ZmqTransport(self.address, secure=client_keys(made.server_key, keys))


@contextmanager
def secured(
    folder: Path,
    *,
    bind: str = "tcp://127.0.0.1:0",
    fingerprint: str = "toy",
    caps: Caps | None = None,
    options: EngineOptions | None = None,
) -> Iterator[Secured]:
    listening = Listening(bind, secure=True, folder=folder)
    server = Server(
        SlowToyTarget(vocabulary=VOCABULARY),
        listening.listener,
        model="toy",
        fingerprint=fingerprint,
        options=options,
        caps=caps,
    )
    listening.guard(server, "127.0.0.1:0")
    thread = threading.Thread(target=server.serve, name="test-server")
    thread.start()
    service = Secured(folder, listening, server)
    try:
        yield service
    finally:
        service.store.close()
        server.stop()
        thread.join(15.0)
        listening.close()
        assert not thread.is_alive()


class Tap:
    """A relay that keeps every byte."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.heard = bytearray()
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                device = self._listener.accept()[0]
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._open += [device, server]
            for pair in ((device, server), (server, device)):
                self._threads.append(threading.Thread(target=self._copy, args=pair))
                self._threads[-1].start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.heard += data
                sink.sendall(data)
        except OSError:
            pass

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)
        for each in (self._listener, *self._open):
            each.close()


def one_line(error: BaseException) -> str:
    """What an error says, which must be one line."""
    text = str(error)
    assert text
    assert "\n" not in text
    return text


def soon(true: Callable[[], Any]) -> bool:
    """Wait until it is true, for a few seconds at most."""
    deadline = time.monotonic() + WAIT_S
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(true())
