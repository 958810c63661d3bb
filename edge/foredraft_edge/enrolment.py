"""What a device needs to be let in: its keys and the server's, one file for each server it enrolled with.

::

    <config>/enrolments/192.0.2.7_5556.json          0600, in a folder of 0700
    <config>/enrolments/192.0.2.7_5556.pending       the keys of an enrolment that has not been answered yet

A device has another key pair for each server, so that servers cannot tell that they know the same device. Whoever connects
to an address of an enrolment is given its keys, without being asked; there is no way back to talking in the clear.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from platformdirs import user_config_path

from foredraft_shared.control_channel import FINGERPRINT_BYTES, control_channel, raise_for
from foredraft_shared.errors import EnrolmentRefused, ServerRefused, UsageError
from foredraft_shared.private_files import read_private, write_private
from foredraft_shared.transports.address import parse_host_port
from foredraft_shared.transports.curve import KeyPair, client_keys, is_key, new_key_pair
from foredraft_shared.transports.zmq import Secure

__all__ = ["Enrolment", "enrol", "enrolment_for", "enrolments", "folder", "forget", "secure_for"]

_TOKEN_BYTES = 16 + FINGERPRINT_BYTES


@dataclass(frozen=True, slots=True)
class Enrolment:
    """That a server lets this device in."""

    control: str
    """Where it enrolled, ``HOST:PORT``."""
    endpoints: tuple[str, ...]
    """Of the token plane, such as ``tcp://192.0.2.7:5555``."""
    server_key: str
    fingerprint: str
    """Of the control plane's certificate, SHA-256 in hexadecimal."""
    device: str
    """What the server calls this device."""
    public_key: str
    secret_key: str = field(repr=False)
    model: str = ""
    """What the server ran at that time."""


def enrol(control: str, token: str, device: str, *, timeout_s: float = 10.0) -> Enrolment:
    """Enrol with the server whose control plane is at ``HOST:PORT``, and keep what it says.

    Args:
        token: from ``foredraft keys token``; good for one device.
        device: a name for the operator's list.

    Raises:
        UsageError: the token or the name is none.
        EnrolmentRefused: the token is unknown, used or expired.
        LinkLost, DeadlineMissed: nobody answers.
        ServerKeyMismatch: who answers is not the server that made the token.
    """
    secret, fingerprint = _parts(token)
    path = _path(control)
    pending = path.with_suffix(".pending")
    keys = _pending_keys(pending)
    with control_channel(control, fingerprint, timeout_s) as channel:
        import grpc

        from foredraft_protos import control_plane_pb2 as plane
        from foredraft_protos import control_plane_pb2_grpc as plane_grpc

        request = plane.EnrollRequest(token=secret, public_key=keys.public, device=device)
        try:
            reply = plane_grpc.ControlPlaneStub(channel).Enroll(request, timeout=timeout_s)
        except grpc.RpcError as error:
            try:
                raise_for(error, control)
            except (EnrolmentRefused, UsageError):
                pending.unlink(missing_ok=True)
                raise
    host = control.rpartition(":")[0].removeprefix("tcp://")
    endpoints = tuple(endpoint.replace("//*:", f"//{host}:", 1) for endpoint in reply.endpoints)
    if not (is_key(reply.server_key) and endpoints):
        raise ServerRefused(f"the control plane at {control} gave no usable answer; install the same version on both.")
    made = Enrolment(
        control,
        endpoints,
        reply.server_key,
        fingerprint.hex(),
        device,
        keys.public,
        keys.secret,
        reply.facts.model,
    )
    write_private(path, json.dumps(asdict(made), indent=1).encode() + b"\n")
    pending.unlink(missing_ok=True)
    return made


def enrolments() -> list[Enrolment]:
    """All of this user's.

    Raises:
        UsageError: a file is damaged, or others can read it.
    """
    found = []
    for path in sorted(folder().glob("*.json")):
        try:
            fields = json.loads(read_private(path))
            entry = Enrolment(**{**fields, "endpoints": tuple(fields["endpoints"])})
        except FileNotFoundError:
            continue
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UsageError(f"{path} is damaged; remove it and enrol again (`foredraft enroll`).") from None
        if not all(map(is_key, (entry.server_key, entry.public_key, entry.secret_key))):
            raise UsageError(f"{path} is damaged; remove it and enrol again (`foredraft enroll`).")
        found.append(entry)
    return found


def enrolment_for(address: str) -> Enrolment | None:
    """The enrolment for an address of a token plane, if there is one."""
    if not address.startswith("tcp://"):
        return None
    wanted = _canonical(address)
    return next(
        (entry for entry in enrolments() if any(_canonical(endpoint) == wanted for endpoint in entry.endpoints)), None
    )


def secure_for(address: str) -> Secure | None:
    """What gives a socket the keys for an address; ``None`` where this device is not enrolled."""
    entry = enrolment_for(address)
    return client_keys(entry.server_key, KeyPair(entry.public_key, entry.secret_key)) if entry else None


def forget(server: str) -> Enrolment | None:
    """Remove the enrolment with a server, named by its control plane or an endpoint; and, named by its control plane, one
    that was never answered. The server still knows the key.

    Returns:
        What there was; ``None`` if that was an enrolment without an answer alone.

    Raises:
        UsageError: there is none.
    """
    wanted = _canonical(server)
    pending = _path(server).with_suffix(".pending")
    unanswered = pending.is_file()
    pending.unlink(missing_ok=True)
    for entry in enrolments():
        if wanted in map(_canonical, (entry.control, *entry.endpoints)):
            _path(entry.control).unlink(missing_ok=True)
            return entry
    if unanswered:
        return None
    raise UsageError(f"this device is not enrolled with {server}; `foredraft enroll` shows with which servers it is.")


def _parts(token: str) -> tuple[bytes, bytes]:
    try:
        data = base64.b64decode(token.strip().encode(), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        data = b""
    if len(data) != _TOKEN_BYTES:
        raise UsageError("that is no enrolment token; give the 64 characters that `foredraft keys token` prints.")
    return data[:-FINGERPRINT_BYTES], data[-FINGERPRINT_BYTES:]


def _pending_keys(path: Path) -> KeyPair:
    """The keys of an attempt that was not answered, which the server may have taken, or else new ones."""
    try:
        public, _, secret = read_private(path).decode("ascii", "replace").strip().partition("\n")
        if is_key(public) and is_key(secret):
            return KeyPair(public, secret)
    except FileNotFoundError:
        pass
    keys = new_key_pair()
    write_private(path, f"{keys.public}\n{keys.secret}\n".encode())
    return keys


def folder() -> Path:
    """Where enrolments are kept; not made here."""
    return user_config_path("foredraft", appauthor=False) / "enrolments"


def _path(control: str) -> Path:
    host, port = parse_host_port(control)
    return folder() / f"{''.join(letter if letter.isalnum() or letter in '.-' else '_' for letter in host)}_{port}.json"


def _canonical(address: str) -> tuple[str, int]:
    host, port = parse_host_port(address)
    return ("127.0.0.1" if host == "localhost" else host.lower()), port
