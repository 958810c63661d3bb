"""``/metrics`` for Prometheus and ``/health`` for whoever restarts servers, over HTTP, on threads of its own.

On loopback it speaks plain HTTP to anybody. An address that other machines can reach gets TLS with the control plane's
certificate, and ``/metrics`` asks for the token in ``metrics.secret``; ``/health`` says one word to whoever asks, as
orchestrators have no secrets.

A few connections at a time, each for a few seconds: whoever holds one open only takes it from himself and his like.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry
from typing_extensions import Self

from foredraft_shared.errors import AddressInUse
from foredraft_shared.transports.address import is_loopback, parse_host_port

from .identity import certificate, metrics_secret, shows

__all__ = ["MetricsServer"]

_CONNECTIONS = 16
_CONNECTION_S = 10.0
_SILENCE_S = 5.0

Health = Callable[[], Mapping[str, object]]


class MetricsServer:
    """Answers from the moment it is made: ``starting`` until :meth:`show` is called.

    Args:
        address: ``HOST:PORT``; port 0 takes any free one.
        folder: of the server's keys; used if the address can be reached from other machines.

    Raises:
        UsageError: the address is not one.
        AddressInUse: it cannot be taken.
    """

    def __init__(self, address: str, folder: Path) -> None:
        host, port = parse_host_port(address)
        self.secured = not is_loopback(host)
        """Whether it speaks TLS and wants the token."""
        host = "0.0.0.0" if host == "*" else host  # noqa: S104 - reachable, hence with a token
        token, context = "", None
        if self.secured:
            token, context = metrics_secret(folder), _tls(folder)
        self._pages = _Pages(token, secured=self.secured)
        try:
            self._http = _Http(host, port, self._pages, context)
        except OSError as error:
            raise AddressInUse(
                f"cannot listen on {address} for metrics ({error.strerror}); give another --metrics address, "
                "127.0.0.1:0 takes any free port."
            ) from None
        name, taken = self._http.server_address[:2]
        self.address = f"[{name!s}]:{taken}" if ":" in str(name) else f"{name!s}:{taken}"
        self._thread = threading.Thread(target=self._http.serve_forever, name="foredraft-metrics", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"{'https' if self.secured else 'http'}://{self.address}"

    def show(self, registry: CollectorRegistry, health: Health) -> None:
        """Answer with these from now on.

        Args:
            health: its ``status`` is one word; any but ``ready`` makes the answer 503.
        """
        self._pages.registry, self._pages.health = registry, health

    def close(self) -> None:
        """Stop answering; may be called twice."""
        self._http.shutdown()
        self._thread.join(5.0)
        self._http.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _tls(folder: Path) -> ssl.SSLContext:
    certificate(folder)  # make the files, if they are not there yet
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(folder / "control.crt", folder / "control.key")
    return context


class _Pages:
    """What there is to see."""

    def __init__(self, token: str, *, secured: bool) -> None:
        self._token = token
        self._secured = secured
        self.registry: CollectorRegistry | None = None
        self.health: Health = lambda: {"status": "starting"}

    def page(self, path: str, shown: str, accept: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body.

        Args:
            shown: the header Authorization.
        """
        path = path.partition("?")[0]
        if path == "/health":
            health = dict(self.health())
            if self._secured:  # from outside: the word, and nothing about load or model
                health = {"status": health["status"]}
            status = HTTPStatus.OK if health["status"] == "ready" else HTTPStatus.SERVICE_UNAVAILABLE
            return status, "application/json", json.dumps(health).encode() + b"\n"
        if path != "/metrics":
            return HTTPStatus.NOT_FOUND, "text/plain", b"there is /metrics and /health\n"
        if self._secured and not shows(self._token, shown):
            return HTTPStatus.UNAUTHORIZED, "text/plain", b"show the token in the server's metrics.secret\n"
        if self.registry is None:
            return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"the model is being loaded\n"
        encode, content_type = choose_encoder(accept)
        return HTTPStatus.OK, content_type, encode(self.registry)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    server_version = "foredraft"
    sys_version = ""
    timeout = _SILENCE_S

    def do_GET(self) -> None:
        status, content_type, body = self.server.pages.page(
            self.path, self.headers.get("Authorization") or "", self.headers.get("Accept") or ""
        )
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is no news."""


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str, port: int, pages: _Pages, context: ssl.SSLContext | None) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.pages = pages
        self._context = context
        self._lock = threading.Lock()
        self._ends: dict[socket.socket, float] = {}
        """When each open connection is cut off."""
        super().__init__((host, port), _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more."""
        with self._lock:
            room = len(self._ends) < _CONNECTIONS
            if room:
                self._ends[request] = time.monotonic() + _CONNECTION_S
        return room

    def service_actions(self) -> None:
        """Cut off whoever takes too long; called twice a second."""
        now = time.monotonic()
        with self._lock:
            late = [request for request, end in self._ends.items() if now > end]
        for request in late:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """On the connection's own thread: so that a handshake that never ends holds up nobody else."""
        if self._context is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(_SILENCE_S)
        with self._context.wrap_socket(request.dup(), server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection and give its place away."""
        with self._lock:
            self._ends.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Somebody hung up, or spoke no TLS: his loss."""
