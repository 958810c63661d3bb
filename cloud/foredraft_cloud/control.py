"""The control plane: enrolment, facts and draining, over gRPC with TLS, on threads of its own.

Nobody who can merely reach it may do more than ask what the server is. Beside the service stand ``grpc.health.v1`` and
reflection. Streams (health's ``Watch``, reflection) end with their connection, which lives for a minute at most, so that
nobody holds the few threads for long.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from foredraft_protos import control_plane_pb2 as plane
from foredraft_protos import control_plane_pb2_grpc as plane_grpc
from foredraft_shared.errors import AddressInUse, EnrolmentRefused, ForedraftError, KeyStoreError
from foredraft_shared.messages import PROTOCOL_VERSION, Welcome
from foredraft_shared.transports.address import parse_host_port
from foredraft_shared.version import version

from .audit import Audit, printable, short
from .identity import Certificate, shows
from .keys import KeyStore

__all__ = ["ControlPlane"]

SERVICE: str = plane.DESCRIPTOR.services_by_name["ControlPlane"].full_name
_GRPC_LOG = logging.getLogger("grpc._common")
"""Where gRPC writes of messages that it cannot read."""
_THREADS = 16
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # or a second server would quietly share the port
    ("grpc.max_receive_message_length", 64 * 1024),
    ("grpc.max_connection_age_ms", 60_000),
    ("grpc.max_connection_age_grace_ms", 5_000),
    ("grpc.max_metadata_size", 8 * 1024),
)


class _OneLine(logging.Filter):
    """In place of a stack trace for bytes that are no message, which anybody may send: a line in the audit log."""

    def __init__(self, audit: Audit) -> None:
        super().__init__()
        self._audit = audit

    def filter(self, record: logging.LogRecord) -> bool:
        if record.getMessage() != "Exception deserializing message!":
            return True
        self._audit.refused("malformed request")
        return False


class ControlPlane:
    """Serves from the moment it is made until :meth:`close`.

    Args:
        address: ``HOST:PORT``; port 0 takes any free one.
        store: whom enrolment adds devices to.
        certificate: what the server proves itself with.
        operator: the secret that lets one drain the server.
        server_key: public key of the token plane.
        endpoints: of the token plane; a host of ``*`` stands for the one a device asked.
        welcome: what the server is.
        drain: called with seconds of grace; returns how many sessions are open.

    Raises:
        UsageError: the address is not one.
        AddressInUse: it cannot be taken.
    """

    def __init__(
        self,
        address: str,
        *,
        store: KeyStore,
        certificate: Certificate,
        operator: str,
        server_key: str,
        endpoints: Sequence[str],
        welcome: Welcome,
        drain: Callable[[float], int],
        audit: Audit | None = None,
    ) -> None:
        host, port = parse_host_port(address)
        host = "0.0.0.0" if host == "*" else host  # noqa: S104 - ZeroMQ's way to say it, which gRPC does not know
        self._health = health.HealthServicer(
            experimental_non_blocking=True, experimental_thread_pool=ThreadPoolExecutor(1, "foredraft-health")
        )
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, "foredraft-control"), options=_OPTIONS, maximum_concurrent_rpcs=_THREADS
        )
        audit = audit or Audit()
        self._one_line = _OneLine(audit)
        service = _Service(store, operator, server_key, endpoints, welcome, self._drain, audit)
        self._drain_server = drain
        plane_grpc.add_ControlPlaneServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        credentials = grpc.ssl_server_credentials([(certificate.key, certificate.chain)])
        try:
            taken = self._server.add_secure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", credentials)
        except RuntimeError:
            taken = 0
        if not taken:
            self._server.stop(None)
            raise AddressInUse(f"cannot listen on {address} for the control plane; give another --control address.")
        self.address = f"[{host}]:{taken}" if ":" in host else f"{host}:{taken}"
        _GRPC_LOG.addFilter(self._one_line)
        self._server.start()
        self._say(serving=True)

    def not_serving(self) -> None:
        """Have health say that this server takes no more sessions."""
        self._say(serving=False)

    def close(self) -> None:
        """Stop answering, within a second."""
        self._health.enter_graceful_shutdown()
        self._server.stop(1.0).wait()
        _GRPC_LOG.removeFilter(self._one_line)

    def _say(self, *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE):
            self._health.set(service, status)

    def _drain(self, grace_s: float) -> int:
        self.not_serving()
        return self._drain_server(grace_s)


class _Service(plane_grpc.ControlPlaneServicer):  # type: ignore[misc]
    def __init__(
        self,
        store: KeyStore,
        operator: str,
        server_key: str,
        endpoints: Sequence[str],
        welcome: Welcome,
        drain: Callable[[float], int],
        audit: Audit,
    ) -> None:
        self._store = store
        self._operator = operator
        self._server_key = server_key
        self._endpoints = tuple(endpoints)
        self._drain = drain
        self._audit = audit
        self._facts = plane.ServerFacts(
            version=version(),
            protocol=PROTOCOL_VERSION,
            server_epoch=welcome.server_epoch,
            model=welcome.model,
            fingerprint=welcome.fingerprint,
            vocabulary=welcome.vocabulary,
            context=welcome.context,
            exits=welcome.exits,
            dtype=welcome.dtype,
            max_draft=welcome.max_draft,
        )

    def Enroll(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's own name
        facts = {"device": printable(request.device), "key": short(request.public_key), "peer": context.peer()}
        try:
            self._store.enrol(request.token, request.public_key, request.device)
        except EnrolmentRefused as error:
            self._audit.refused("enrolment token", why=str(error).partition(";")[0], **facts)
            context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except KeyStoreError as error:  # the operator's affair: where the file is, and what is wrong with it
            self._audit.refused("enrolment", why=str(error), **facts)
            context.abort(
                grpc.StatusCode.INTERNAL,
                "the server cannot use its list of devices; the token stays good: try again, or ask the operator to read the "
                "server's log.",
            )
        except ForedraftError as error:
            self._audit.refused("enrolment", why=str(error).partition(";")[0], **facts)
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        self._audit.done("enrolled", **facts)
        return plane.EnrollReply(server_key=self._server_key, endpoints=self._endpoints, facts=self._facts)

    def Facts(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._facts

    def Drain(self, request: Any, context: Any) -> Any:  # noqa: N802
        shown = dict(context.invocation_metadata()).get("authorization", "")
        shown = shown if isinstance(shown, str) else ""
        if not shows(self._operator, shown):
            self._audit.refused("drain", peer=context.peer())
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "only who can read operator.secret may drain this server.")
        self._audit.done("draining", grace_ms=request.grace_ms, peer=context.peer())
        return plane.DrainReply(sessions=self._drain(request.grace_ms / 1000.0))
