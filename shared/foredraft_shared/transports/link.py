"""A network between two programs on one machine: delay, jitter, rate, stalls, black holes and resets.

A relay for TCP that stands between edge and cloud::

    with LinkEmulator(to="127.0.0.1:5555", rtt_ms=50, jitter_ms=5, rate_mbps=20) as link:
        client = Client(link.address)
        link.black_hole()

What it cannot do: connecting itself takes no round trip (the machine accepts before the relay is asked), and packets
are not lost one by one, because TCP would repair that out of our sight: what a program sees of it is a stall.

In a thread (:class:`LinkEmulator`) the relay shares the interpreter with the program and is late when that computes;
for measurements give it a process (:class:`foredraft_shared.transports.link_process.LinkProcess`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from ..errors import AddressInUse, LinkError, UsageError
from .address import parse_host_port
from .recording import LinkRecording, read_recording
from .relay import LinkSettings, LinkStatistics, Relay

__all__ = ["LinkEmulator", "LinkSettings", "LinkStatistics", "open_relay", "recording_from", "settings_from"]


def settings_from(**values: float | None) -> LinkSettings:
    """Settings by name.

    Raises:
        UsageError: a value is negative or not a number.
    """
    try:
        return LinkSettings(**values)  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(str(error)) from None


def recording_from(path: Path | str, **values: float | None) -> LinkRecording:
    """A recorded network; jitter, stalls and seed, which no recording holds, are those given.

    Raises:
        UsageError: no recording, or a value that it holds itself is given beside it.
    """
    recording = read_recording(path)
    settings = settings_from(**values)  # complains if a value is none
    own = [name for name in values if name not in ("jitter_ms", "stall_every_s", "stall_ms", "seed")]
    if own:
        raise UsageError(f"the recording {path} says itself what {own[0]} is; leave it out.")
    return recording.with_(
        jitter_ms=settings.jitter_ms,
        stall_every_s=settings.stall_every_s,
        stall_ms=settings.stall_ms,
        seed=settings.seed,
    )


def open_relay(
    to: str, listen: str, settings: LinkSettings, recording: LinkRecording | None = None
) -> tuple[Relay, str]:
    """A relay that listens, and its address; it does nothing until it is run.

    Args:
        settings: what the link is like, if there is no recording.
        recording: played from the first connection on, again and again.

    Raises:
        UsageError: an address is not HOST:PORT.
        AddressInUse: another process listens there.
        LinkError: an address cannot be used.
    """
    target_host, target_port = parse_host_port(to)
    host, port = parse_host_port(listen)
    try:
        found = socket.getaddrinfo(target_host, target_port, type=socket.SOCK_STREAM)
        # As the transport: "localhost" may be ::1 first, where a server on 127.0.0.1 is not found.
        found.sort(key=lambda entry: entry[0] != (socket.AF_INET6 if ":" in target_host else socket.AF_INET))
        target = found[0][4][:2]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=64)
    except socket.gaierror:
        raise LinkError(f"cannot find the machine of {to} or of {listen}; check the names.") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"another process listens on {listen}; stop it or give another --listen.") from None
        raise LinkError(f"cannot listen on {listen}: {error.strerror}; try 127.0.0.1:0.") from None
    port = listener.getsockname()[1]
    address = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    if recording is not None:
        settings = recording.settings[0]  # of jitter, stalls and seed: the same in all rows
    return Relay(listener, (str(target[0]), int(target[1])), settings, recording), address


class LinkEmulator:
    """A link in a thread of this program; a context manager. Its methods may be called from any thread.

    Args:
        to: ``HOST:PORT`` of the server, with or without ``tcp://``.
        listen: ``HOST:PORT`` to listen on; port 0 takes any free one.
        recording: a CSV file of a network that somebody recorded: see :mod:`.recording`.
        settings: as :class:`LinkSettings` names them; beside a recording, those which it does not hold.

    Raises:
        UsageError, AddressInUse, LinkError: see :func:`open_relay`.
    """

    def __init__(
        self,
        to: str,
        listen: str = "127.0.0.1:0",
        *,
        recording: Path | str | None = None,
        **settings: float | None,
    ) -> None:
        played = recording_from(recording, **settings) if recording is not None else None
        base = LinkSettings() if recording is not None else settings_from(**settings)
        self._relay, self.address = open_relay(to, listen, base, played)
        self._thread = threading.Thread(target=self._relay.run, name="link", daemon=True)
        self._thread.start()

    def change(self, **settings: float | None) -> None:
        """Change some of the settings; bytes under way keep the times they have. Ends a recording."""
        changed = settings_from(**{**dataclasses.asdict(self._relay.settings), **settings})
        self._do(lambda: self._relay.change(changed))

    def black_hole(self, *, hold: bool = False) -> None:
        """Let nothing through, and tell nobody.

        Args:
            hold: keep the bytes and deliver them late, after :meth:`heal`, as TCP does after an outage. Otherwise every
                connection that carries anything meanwhile, or is begun, is dead for good without either side being
                told, as after a router lost its table.
        """
        self._do(lambda: self._relay.open_hole(hold))

    def heal(self) -> None:
        """End a black hole or a stall."""
        self._do(self._relay.heal)

    def stall(self, seconds: float) -> None:
        """Let nothing through for a while, then everything."""
        self._do(lambda: self._relay.stall(seconds))

    def reset(self) -> None:
        """Break every connection with RST; new ones work."""
        self._do(self._relay.reset)

    def half_open(self) -> None:
        """Let every connection be dead while its device believes in it; new ones work."""
        self._do(self._relay.half_open)

    def statistics(self) -> LinkStatistics:
        """What went through so far; also of a link that is closed."""
        with contextlib.suppress(LinkError):
            self._do(lambda: None)  # what the relay has handed on, it has then counted, too
        return self._relay.statistics()

    def close(self) -> None:
        """Close every connection and stop; may be called twice."""
        if self._thread.is_alive():
            self._relay.call(self._relay.stop)
            self._thread.join()

    def __enter__(self) -> LinkEmulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, command: Callable[[], None]) -> None:
        """Have the relay's thread do it, and wait until it has."""
        done = threading.Event()

        def obey() -> None:
            command()
            done.set()

        self._relay.call(obey)
        while not done.wait(0.1) and self._thread.is_alive():
            pass  # the interpreter may be busy with something else
        if not done.is_set():
            raise LinkError("the link emulator has stopped; make a new one.")
