"""CURVE: the keys of both ends of a connection.

A key is 32 bytes, written as forty characters of Z85. Whoever connects must know the server's public key beforehand, and
proves to hold the secret half of the key it names; everything after that is encrypted, in both directions, with keys made
for the connection. That the server lets in only keys on its list is the authenticator's doing (``ZAP``), which it asks
about every handshake of a socket with an authentication domain.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import zmq
from zmq.utils import z85

from .zmq import Secure

__all__ = ["ZAP_DOMAIN", "KeyPair", "client_keys", "is_key", "new_key_pair", "server_keys"]

ZAP_DOMAIN = "foredraft"
_KEY_CHARACTERS, _KEY_BYTES = 40, 32


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A public key and its secret half, in Z85."""

    public: str
    secret: str = field(repr=False)


def new_key_pair() -> KeyPair:
    """A key pair nobody else has."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def is_key(text: str) -> bool:
    """Whether it can be a key at all."""
    if len(text) != _KEY_CHARACTERS or not text.isascii():
        return False
    try:
        return len(z85.decode(text)) == _KEY_BYTES
    except (KeyError, ValueError, struct.error):
        return False


def client_keys(server_key: str, keys: KeyPair) -> Secure:
    """Make a socket prove to be ``keys`` to the server with the public key ``server_key``, and to no other."""

    def secure(socket: zmq.Socket[bytes]) -> None:
        socket.curve_serverkey = server_key.encode()
        socket.curve_publickey = keys.public.encode()
        socket.curve_secretkey = keys.secret.encode()

    return secure


def server_keys(keys: KeyPair) -> Secure:
    """Make a socket take encrypted connections only, each of them asked about with the authenticator."""

    def secure(socket: zmq.Socket[bytes]) -> None:
        socket.zap_domain = ZAP_DOMAIN.encode()
        socket.curve_server = True
        socket.curve_secretkey = keys.secret.encode()

    return secure
