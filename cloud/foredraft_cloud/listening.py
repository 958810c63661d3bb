"""How a server listens: in the clear on this machine, or with keys, and then with a control plane beside it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import Self

from foredraft_shared.errors import UsageError
from foredraft_shared.transports.address import is_loopback, parse_address, parse_host_port
from foredraft_shared.transports.zmq import ZmqListener

from .access import Access
from .audit import Audit
from .identity import certificate, operator_secret, server_key_pair
from .keys import KeyStore
from .server import Server

if TYPE_CHECKING:
    from .control import ControlPlane

__all__ = ["Listening", "needs_keys"]


def needs_keys(bind: str) -> bool:
    """Whether an address can be reached from other machines, so that nobody may listen there in the clear.

    Raises:
        UsageError: it is no address.
    """
    kind, host = parse_address(bind)
    return kind == "tcp" and not is_loopback(host)


class Listening:
    """A listener, and what guards it. Made before the model is loaded, so that a port in use is known at once.

    Args:
        bind: see :class:`~foredraft_shared.transports.zmq.ZmqListener`.
        secure: take only enrolled devices.
        folder: of the server's keys.

    Raises:
        UsageError, AddressInUse, InsecureBind, LinkError: see :class:`~foredraft_shared.transports.zmq.ZmqListener`.
    """

    def __init__(self, bind: str, *, secure: bool, folder: Path) -> None:
        self._stack = ExitStack()
        self._folder = folder
        self._audit = Audit()
        self._access: Access | None = None
        self._store: KeyStore | None = None
        self.control: ControlPlane | None = None
        if not secure:
            self.listener = ZmqListener(bind)
            return
        if parse_address(bind)[0] != "tcp":
            raise UsageError(
                f"{bind} is not reached over a network: keys are for tcp:// addresses; leave out --secure."
            )
        with ExitStack() as stack:
            self._store = KeyStore(folder)
            stack.callback(self._store.close)
            self._keys = server_key_pair(folder)
            self._access = stack.enter_context(Access(self._store, self._keys, self._audit))
            self.listener = ZmqListener(
                bind, secure=self._access.secure, admits=self._access.admits, context=self._access.context
            )
            stack.callback(self.listener.close)
            self._stack = stack.pop_all()

    def guard(self, server: Server, control: str | None, endpoints: Sequence[str] = ()) -> None:
        """Act upon revocations from now on, and open the control plane.

        Args:
            control: ``HOST:PORT``, or ``None`` for no control plane.
            endpoints: of the token plane, as devices reach it; by default where it listens.

        Raises:
            UsageError: there are no keys, so there is nobody to enrol; or the address is none.
            AddressInUse: the control plane's address is taken.
        """
        if self._access is not None:
            self._access.watch(server.forget_devices)
        if control is None:
            return
        if self._access is None or self._store is None:
            raise UsageError("--control is for enrolling devices, which this server does not ask for; add --secure.")
        from .control import ControlPlane  # gRPC is needed by nobody else

        self.control = ControlPlane(
            control,
            store=self._store,
            certificate=certificate(self._folder),
            operator=operator_secret(self._folder),
            server_key=self._keys.public,
            endpoints=tuple(endpoints) or (_as_reached(self.listener.address),),
            welcome=server.welcome,
            drain=server.drain,
            audit=self._audit,
        )
        server.on_drain(self.control.not_serving)
        self._stack.callback(self.control.close)

    def close(self) -> None:
        """Close the control plane and the listener, and stop authenticating."""
        self._stack.close()
        self.listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _as_reached(address: str) -> str:
    """An address that listens everywhere is reached under whatever name the device has for this machine."""
    host, port = parse_host_port(address)
    return f"tcp://*:{port}" if host in ("0.0.0.0", "::", "*") else address  # noqa: S104 - compared, not bound
