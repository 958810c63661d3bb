"""Addresses: ``tcp://HOST:PORT`` and ``ipc://PATH``, and what can be told about them."""

from __future__ import annotations

import ipaddress
import socket
import stat
from pathlib import Path

from ..errors import UsageError

__all__ = ["is_loopback", "parse_address", "parse_host_port", "unix_socket_is_alive"]


def parse_address(address: str) -> tuple[str, str]:
    """``("tcp", host)`` or ``("ipc", path)``.

    Raises:
        UsageError: it is neither.
    """
    scheme, separator, rest = address.partition("://")
    if separator and scheme == "ipc" and rest:
        return scheme, rest
    if separator and scheme == "tcp":
        return scheme, parse_host_port(rest)[0]
    raise UsageError(f"{address!r} is not an address; write tcp://HOST:PORT or ipc://PATH.")


def parse_host_port(text: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[IPV6]:PORT``, with or without ``tcp://`` before it.

    Raises:
        UsageError: it is not that.
    """
    bare = text.removeprefix("tcp://")
    host, separator, port = bare.rpartition(":")
    if not separator or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        scheme = text.removesuffix(bare)
        raise UsageError(
            f"{text!r} is not {scheme}HOST:PORT with a port up to 65535; write for example {scheme}127.0.0.1:5555."
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name or an interface: it may be anything


def unix_socket_is_alive(path: str) -> bool:
    """Whether somebody accepts connections on the socket at ``path``."""
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return False
    except OSError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
