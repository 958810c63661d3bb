"""What a server proves itself with: its CURVE key pair, its TLS certificate, and the operator's secret.

::

    <data>/server.key          CURVE key pair of the token plane, public and secret, a line each
    <data>/control.key         the certificate's private key
    <data>/control.crt         the certificate of the control plane
    <data>/operator.secret     who can read it may drain the server
    <data>/metrics.secret      who can read it may scrape its figures over a network

Each is made when first needed and then kept: devices know the server by them. Nobody vouches for the certificate; a device
compares its fingerprint with that in its enrolment token. Its dates say nothing (robots have wrong clocks), its name is
always the same.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from foredraft_shared.errors import UsageError
from foredraft_shared.private_files import make_private_folder, read_private, write_private
from foredraft_shared.transports.curve import KeyPair, is_key, new_key_pair

__all__ = ["CERTIFICATE_NAME", "Certificate", "certificate", "metrics_secret", "operator_secret", "server_key_pair"]

CERTIFICATE_NAME = "foredraft"
_SECRET_CHARACTERS = 16
"""The shortest that is taken; those made here have 43."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM, both of them."""

    chain: bytes
    key: bytes = field(repr=False)
    fingerprint: bytes
    """SHA-256 of the certificate in DER."""


def server_key_pair(folder: Path) -> KeyPair:
    """The key pair of the token plane.

    Raises:
        UsageError: the file cannot be used.
    """
    path = folder / "server.key"
    _make_once(path, lambda: _lines(new_key_pair()))
    public, _, secret = read_private(path).decode("ascii", "replace").strip().partition("\n")
    if not (is_key(public) and is_key(secret)):
        raise UsageError(f"{path} is damaged; restore it, or remove it and enrol every device anew.")
    return KeyPair(public, secret)


def operator_secret(folder: Path) -> str:
    """What an operator of this server shows to the control plane.

    Raises:
        UsageError: the file cannot be used.
    """
    return _secret(folder / "operator.secret", "")


def metrics_secret(folder: Path) -> str:
    """What Prometheus shows to a server that is reached over a network.

    Raises:
        UsageError: the file cannot be used.
    """
    return _secret(folder / "metrics.secret", ", which is what Prometheus has to show from then on")


def _secret(path: Path, then: str) -> str:
    _make_once(path, lambda: secrets.token_urlsafe(32).encode() + b"\n")
    secret = read_private(path).decode("ascii", "replace").strip()
    # An empty one would be shown by whoever shows nothing.
    if len(secret) < _SECRET_CHARACTERS or not all("!" <= character <= "~" for character in secret):
        raise UsageError(
            f"{path} is damaged: a secret has {_SECRET_CHARACTERS} characters or more, and no spaces; remove the file, and a "
            f"new one is made{then}."
        )
    return secret


def shows(secret: str, header: str) -> bool:
    """Whether the header Authorization shows ``secret``, which nobody can show where there is none."""
    return bool(secret) and hmac.compare_digest(header.encode(), f"Bearer {secret}".encode())


def certificate(folder: Path) -> Certificate:
    """The certificate of the control plane, signed by itself.

    Raises:
        UsageError: the files cannot be used.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    chain_path, key_path = folder / "control.crt", folder / "control.key"
    make_private_folder(folder)
    with FileLock(folder / "lock"):
        if not (chain_path.exists() and key_path.exists()):
            chain, key = _sign_itself()
            write_private(key_path, key)
            write_private(chain_path, chain)
    chain, key = read_private(chain_path), read_private(key_path)
    anew = "restore it, or remove it and enrol every device anew."
    try:
        signed = x509.load_pem_x509_certificate(chain)
    except ValueError:
        raise UsageError(f"{chain_path} is damaged; {anew}") from None
    try:
        held = serialization.load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it wants a password
        raise UsageError(f"{key_path} is damaged; {anew}") from None
    if held != signed.public_key():
        raise UsageError(f"{key_path} is not the key of {chain_path.name}; {anew}")
    der = signed.public_bytes(serialization.Encoding.DER)
    return Certificate(chain, key, hashlib.sha256(der).digest())


def _sign_itself() -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CERTIFICATE_NAME)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc))
        .not_valid_after(datetime.datetime(2200, 1, 1, tzinfo=datetime.timezone.utc))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(CERTIFICATE_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        made.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _make_once(path: Path, make: Callable[[], bytes]) -> None:
    """Write a file that is not there; of two processes that find it missing, one does."""
    make_private_folder(path.parent)
    with FileLock(path.parent / "lock"):
        if not path.exists():
            write_private(path, make())


def _lines(keys: KeyPair) -> bytes:
    return f"{keys.public}\n{keys.secret}\n".encode()
