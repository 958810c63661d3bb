"""A channel to a server's control plane that trusts one certificate: the one with the fingerprint the caller knows.

The server's certificate is signed by nobody but itself. It is fetched first, compared with the fingerprint, and then the
only one the channel accepts; who shows it must also hold its key, or the handshake fails.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from .errors import (
    BackendMissing,
    DeadlineMissed,
    EnrolmentRefused,
    LinkError,
    LinkLost,
    ServerKeyMismatch,
    ServerRefused,
    UsageError,
)
from .transports.address import parse_host_port

__all__ = ["control_channel", "raise_for"]

FINGERPRINT_BYTES = 32
_CERTIFICATE_NAME = "foredraft"
_OPTIONS = (
    ("grpc.ssl_target_name_override", _CERTIFICATE_NAME),
    ("grpc.enable_http_proxy", 0),  # what is pinned is asked directly
    ("grpc.max_receive_message_length", 1 << 20),
)


@contextmanager
def control_channel(address: str, fingerprint: bytes, timeout_s: float) -> Iterator[Any]:
    """A gRPC channel to ``HOST:PORT``.

    Args:
        fingerprint: SHA-256 of the server's certificate.

    Raises:
        LinkLost: nobody answers.
        ServerKeyMismatch: who answers has another certificate.
        BackendMissing: grpcio is not installed.
    """
    try:
        import grpc
    except ModuleNotFoundError:
        raise BackendMissing("the control plane needs grpcio; run: pip install 'foredraft[edge]'") from None
    certificate = _fetch(address, timeout_s)
    if not hmac.compare_digest(hashlib.sha256(certificate).digest(), fingerprint):
        raise ServerKeyMismatch(
            f"who answers at {address} does not have the certificate that the token (or --data) names; check both and the "
            "address, and if they are right, do not go on: somebody stands in between."
        )
    host, port = parse_host_port(address)
    credentials = grpc.ssl_channel_credentials(ssl.DER_cert_to_PEM_cert(certificate).encode())
    target = f"dns:///[{host}]:{port}" if ":" in host else f"dns:///{host}:{port}"
    with grpc.secure_channel(target, credentials, _OPTIONS) as channel:
        yield channel


def raise_for(error: Any, address: str) -> NoReturn:
    """Raise what a ``grpc.RpcError`` means here."""
    import grpc

    details = " ".join(str(error.details() or "").split())[:500]
    code = error.code()
    if code is grpc.StatusCode.UNAVAILABLE:
        raise LinkLost(f"no answer from the control plane at {address} ({details}); try again.") from None
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        raise DeadlineMissed(f"the control plane at {address} did not answer in time; try again.") from None
    kinds = {
        grpc.StatusCode.PERMISSION_DENIED: EnrolmentRefused,
        grpc.StatusCode.INVALID_ARGUMENT: UsageError,
    }
    raise kinds.get(code, ServerRefused)(details or f"the control plane at {address} refused ({code.name}).") from None


def _fetch(address: str, timeout_s: float) -> bytes:
    """The certificate, in DER, of whoever listens there: to be compared, not trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection(parse_host_port(address), timeout_s) as plain,
            context.wrap_socket(plain) as encrypted,
        ):
            return encrypted.getpeercert(binary_form=True) or b""
    except ssl.SSLError as error:
        raise LinkError(
            f"what listens at {address} is no control plane ({error.reason or error}); give the address that "
            "`foredraft serve` prints for enrolment."
        ) from None
    except OSError as error:
        raise LinkLost(
            f"no answer from the control plane at {address} ({error.strerror or error}); is the server running with "
            "--control, and is the address right?"
        ) from None
