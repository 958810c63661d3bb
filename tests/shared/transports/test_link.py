"""The link emulator over real sockets. Times are bounded below exactly and above loosely: the machine may be busy."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from foredraft_shared.errors import AddressInUse, LinkError, UsageError
from foredraft_shared.transports.address import parse_host_port
from foredraft_shared.transports.link import LinkEmulator
from foredraft_shared.transports.link_process import LinkProcess

EARLY_MS = 0.5
"""The relay takes its own way off the delay."""


class Echo:
    """A server that sends back what it gets, on any number of connections."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def test_a_name_means_version_4_unless_version_6_is_written(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    port = parse_host_port(echo.address)[1]
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: list(found))
    with LinkEmulator(f"localhost:{port}") as link:
        assert link._relay._target == ("127.0.0.1", port)
    with LinkEmulator(f"[::1]:{port}") as link:
        assert link._relay._target == ("::1", port)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


def connect(address: str) -> socket.socket:
    connection = socket.create_connection(parse_host_port(address), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def exchange_ms(connection: socket.socket, data: bytes = b"hello") -> float:
    """Milliseconds until all of ``data`` has come back."""
    began = time.perf_counter()
    threading.Thread(target=connection.sendall, args=(data,), daemon=True).start()
    received = b""
    while len(received) < len(data):
        more = connection.recv(65536)
        assert more, "the connection ended"
        received += more
    assert received == data
    return (time.perf_counter() - began) * 1000


@pytest.mark.parametrize("kind", [LinkEmulator, LinkProcess])
def test_the_round_trip_takes_as_long_as_it_should(echo: Echo, kind: type[LinkEmulator | LinkProcess]) -> None:
    with kind(echo.address, rtt_ms=40) as link, connect(link.address) as connection:
        times = [exchange_ms(connection) for _ in range(10)]
        assert min(times) >= 40 - EARLY_MS
        assert min(times) <= 45
        link.change(rtt_ms=10)
        assert 10 - EARLY_MS <= min(exchange_ms(connection) for _ in range(10)) <= 15
        statistics = link.statistics()
        assert statistics.bytes_up == statistics.bytes_down == 20 * len(b"hello")
        assert statistics.connections == statistics.open_connections == 1


def test_jitter_spreads_the_delays_and_keeps_the_order(echo: Echo) -> None:
    with LinkEmulator(echo.address, rtt_ms=20, jitter_ms=15) as link, connect(link.address) as connection:
        times = [exchange_ms(connection) for _ in range(20)]
        assert min(times) >= 5 - EARLY_MS
        assert max(times) - min(times) > 5
        exchange_ms(connection, bytes(range(256)) * 200)  # compares what came back


@pytest.mark.parametrize("kind", [LinkEmulator, LinkProcess])
def test_a_recording_is_played_from_the_first_connection_on_and_again(
    echo: Echo, kind: type[LinkEmulator | LinkProcess], tmp_path: Path
) -> None:
    path = tmp_path / "walk.csv"
    path.write_text("time_s,delay_ms\n0,10\n0.4,40\n", encoding="utf-8")
    with kind(echo.address, recording=path) as link, connect(link.address) as connection:
        began = time.monotonic()
        times: list[tuple[float, float]] = []
        while (passed := time.monotonic() - began) < 2.0:
            times.append((passed % 0.8, exchange_ms(connection)))
    fast = [took for at, took in times if at < 0.3]
    slow = [took for at, took in times if 0.45 < at < 0.7]
    assert min(fast) >= 20 - EARLY_MS
    assert min(fast) <= 30
    assert min(slow) >= 80 - EARLY_MS
    assert min(slow) <= 100


def test_a_link_whose_settings_are_changed_plays_its_recording_no_longer(echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "walk.csv"
    path.write_text("time_s,delay_ms\n0,50\n", encoding="utf-8")
    with LinkEmulator(echo.address, recording=path) as link, connect(link.address) as connection:
        assert exchange_ms(connection) >= 100 - EARLY_MS
        link.change(rtt_ms=2)
        assert min(exchange_ms(connection) for _ in range(5)) < 50


def test_the_ways_may_differ(echo: Echo) -> None:
    with (
        LinkEmulator(echo.address, rate_up_mbps=8) as link,
        connect(link.address) as connection,
    ):
        took = exchange_ms(connection, bytes(100_000))  # 100 ms at a byte a microsecond, on the way up
        assert 100 - EARLY_MS <= took <= 500
        link.change(rate_up_mbps=None)
        assert min(exchange_ms(connection, bytes(100_000)) for _ in range(5)) < 50


def test_the_rate_is_limited_each_way(echo: Echo) -> None:
    with LinkEmulator(echo.address, rate_mbps=8) as link, connect(link.address) as connection:
        took = exchange_ms(connection, bytes(100_000))  # 100 ms at a byte a microsecond, both ways at once
        assert 100 - EARLY_MS <= took <= 500


def test_a_sender_faster_than_the_link_is_made_to_wait(echo: Echo) -> None:
    with LinkEmulator(echo.address, rate_mbps=1) as link, connect(link.address) as connection:
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.sendall(bytes(50 * 2**20))
        assert link._relay._connections[0].server.queued_bytes < 200_000


def test_a_megabyte_passes_unchanged(echo: Echo) -> None:
    with LinkEmulator(echo.address, rtt_ms=4, jitter_ms=2, rate_mbps=200) as link, connect(link.address) as connection:
        exchange_ms(connection, os.urandom(2**20))


def test_a_stall_delays_and_loses_nothing(echo: Echo) -> None:
    with LinkEmulator(echo.address) as link, connect(link.address) as connection:
        exchange_ms(connection)
        link.stall(0.2)
        assert 150 <= exchange_ms(connection) <= 2000
        assert min(exchange_ms(connection) for _ in range(5)) < 100


def test_stalls_by_chance(echo: Echo) -> None:
    with (
        LinkEmulator(echo.address, stall_every_s=0.05, stall_ms=60, seed=1) as link,
        connect(link.address) as connection,
    ):
        times = []
        for _ in range(40):
            times.append(exchange_ms(connection))
            time.sleep(0.01)
        assert max(times) > 30
        assert min(times) < 15


def test_a_black_hole_that_holds_delivers_late(echo: Echo) -> None:
    with LinkEmulator(echo.address) as link, connect(link.address) as connection:
        exchange_ms(connection)
        link.black_hole(hold=True)
        threading.Timer(0.2, link.heal).start()
        assert 150 <= exchange_ms(connection) <= 2000


def test_a_black_hole_kills_silently_whatever_touches_it(echo: Echo) -> None:
    with LinkEmulator(echo.address) as link, connect(link.address) as used, connect(link.address) as unused:
        exchange_ms(used)
        exchange_ms(unused)
        link.black_hole()
        used.sendall(b"lost")
        with connect(link.address) as begun:
            begun.sendall(b"lost")
            time.sleep(0.1)
            link.heal()
            for dead in (used, begun):
                dead.sendall(b"lost, too")
                dead.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    dead.recv(1)
            exchange_ms(unused)
            with connect(link.address) as fresh:
                exchange_ms(fresh)
        assert link.statistics().bytes_lost >= 8


def test_reset_breaks_what_is_there_and_nothing_else(echo: Echo) -> None:
    with LinkEmulator(echo.address) as link, connect(link.address) as connection:
        exchange_ms(connection)
        link.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        with connect(link.address) as another:
            exchange_ms(another)
        assert link.statistics().connections == 2


def test_a_half_open_connection_swallows_everything_and_its_device_is_not_told(echo: Echo) -> None:
    with LinkEmulator(echo.address) as link, connect(link.address) as connection:
        exchange_ms(connection)
        link.half_open()
        connection.sendall(b"anybody there?")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        with connect(link.address) as another:
            exchange_ms(another)
        assert link.statistics().bytes_lost == len(b"anybody there?")


def test_nobody_at_the_other_end_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (
        LinkEmulator(f"127.0.0.1:{port}") as link,
        connect(link.address) as connection,
        pytest.raises(ConnectionResetError),
    ):
        connection.recv(1)


def test_the_end_of_a_stream_passes_after_the_bytes_before_it(echo: Echo) -> None:
    with LinkEmulator(echo.address, rtt_ms=20) as link, connect(link.address) as connection:
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while more := connection.recv(100):
            received += more
        assert received == b"last words"
        deadline = time.monotonic() + 5
        while link.statistics().open_connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert link.statistics().open_connections == 0


def test_chunks_keep_their_distance(echo: Echo) -> None:
    def distances(connection: socket.socket) -> list[float]:
        for _ in range(3):
            connection.sendall(b"x")
            time.sleep(0.01)
        arrived = []
        for _ in range(3):
            connection.recv(1)
            arrived.append(time.perf_counter())
        return [later - earlier for earlier, later in pairwise(arrived)]

    with LinkEmulator(echo.address, rtt_ms=60) as link, connect(link.address) as connection:
        exchange_ms(connection)
        # Once in ten is enough: a busy machine lets this test read late, which makes distances small.
        assert any(min(distances(connection)) > 0.005 for _ in range(10))


def test_what_is_wrong_is_said(echo: Echo) -> None:
    for make in (LinkEmulator, LinkProcess):
        with pytest.raises(UsageError, match="rtt_ms"):
            make(echo.address, rtt_ms=-1)
        with pytest.raises(UsageError, match="HOST:PORT"):
            make("nowhere")
        with pytest.raises(AddressInUse, match="another process"):
            make(echo.address, listen=echo.address)


def test_a_link_that_was_closed_says_so(echo: Echo) -> None:
    for make in (LinkEmulator, LinkProcess):
        link = make(echo.address)
        link.close()
        link.close()
        with pytest.raises(LinkError, match="make a new one"):
            link.heal()


def test_the_process_does_everything_the_thread_does(echo: Echo) -> None:
    with LinkProcess(echo.address) as link, connect(link.address) as connection:
        exchange_ms(connection)
        link.black_hole(hold=True)
        threading.Timer(0.1, link.heal).start()
        assert exchange_ms(connection) >= 50
        link.stall(0.1)
        assert exchange_ms(connection) >= 50
        link.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        with pytest.raises(UsageError, match="rate_mbps"):
            link.change(rate_mbps=-1)
        os.kill(link.pid, signal.SIGKILL)
        with pytest.raises(LinkError, match="make a new one"):
            link.statistics()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_command_relays_and_stops_cleanly(echo: Echo, sent: signal.Signals) -> None:
    command = [sys.executable, "-m", "foredraft_shared", "link", "--rtt", "10", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, "--to", echo.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        told = re.search(r"tcp://(127\.0\.0\.1:\d+) ", process.stdout.readline())
        assert told is not None
        with connect(told[1]) as connection:
            assert exchange_ms(connection) >= 10 - EARLY_MS
        process.send_signal(sent)
        assert process.wait(10) == 0
        assert "1 connections, 5 bytes up, 5 bytes down" in process.stdout.read()
        assert process.stderr.read() == ""
