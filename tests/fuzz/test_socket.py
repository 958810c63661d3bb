"""The server's real socket under fire, with keys: enrolled devices gone mad and strangers, and somebody who writes meanwhile.

The server is a process of its own, ``foredraft serve`` with a toy in place of the model. 4,000 frames here; ``make fuzz``
sends 1,000,000.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import raw_zmtp
import zmq
from bystander import Bystander
from fuzz_figures import frames_wanted, report, resident_mib
from fuzz_frames import frames, mutated

from foredraft_bench.processes import CloudProcess
from foredraft_cloud.identity import server_key_pair
from foredraft_cloud.keys import KeyStore
from foredraft_shared.errors import Malformed
from foredraft_shared.messages import Ping, Pong
from foredraft_shared.transports.curve import client_keys, new_key_pair
from foredraft_shared.transports.zmq import ZmqTransport
from foredraft_shared.wire import Codec

FRAMES = frames_wanted(4_000)
DEVICES = 6
STALL_MS = 2000.0
GROWTH_MIB = 64.0
PER_SECOND = 700
"""Of one device: what a server on a slow core reads, so that each frame is read and none only dropped."""


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes find the toy server."""
    folders = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))


class Attackers:
    """Enrolled devices, each a socket that says anything and reads now and then."""

    def __init__(self, stack: ExitStack, address: str, folder: Path, store: KeyStore) -> None:
        self.sent = 0
        self.answers = 0
        server_key = server_key_pair(folder).public
        context = stack.enter_context(zmq.Context())
        self._sockets = []
        for number in range(DEVICES):
            keys = new_key_pair()
            store.add(keys.public, f"attacker {number}")
            dealer = stack.enter_context(context.socket(zmq.DEALER))
            dealer.linger = 0
            dealer.immediate = True
            client_keys(server_key, keys)(dealer)
            dealer.connect(address)
            self._sockets.append(dealer)
        self._begun = time.monotonic()

    def attack(self, several: Iterator[bytes], count: int) -> None:
        """Send ``count`` frames; whoever cannot send at the moment is passed over."""
        while count > 0:
            ahead_s = self.sent / (PER_SECOND * DEVICES) - (time.monotonic() - self._begun)
            if ahead_s > 0.0:
                time.sleep(ahead_s)
            sent = 0
            for dealer in self._sockets:
                with suppress(zmq.Again):
                    if self.sent % 50 == 49:
                        dealer.send_multipart([next(several), next(several)], zmq.NOBLOCK)
                    else:
                        dealer.send(next(several), zmq.NOBLOCK)
                    sent += 1
                    self.sent += 1
                if self.sent % 3:  # slower than it is answered
                    with suppress(zmq.Again):
                        self.answers += bool(dealer.recv(zmq.NOBLOCK))
            count -= sent
            if not sent:
                time.sleep(0.005)

    def heard_out(self) -> bool:
        """Wait until the server has read all that was said: it answers what is asked last."""
        codec = Codec()
        for number, dealer in enumerate(self._sockets):
            nonce = 2**40 + number
            deadline = time.monotonic() + 60.0
            pong = False
            while not pong and time.monotonic() < deadline:
                with suppress(zmq.Again):
                    dealer.send(codec.encode(Ping(nonce)), zmq.NOBLOCK)
                until = time.monotonic() + 0.2
                while not pong and time.monotonic() < until and dealer.poll(50):
                    self.answers += 1
                    with suppress(Malformed):
                        pong = codec.decode(dealer.recv()) == Pong(nonce)
            if not pong:
                return False
        return True


@contextmanager
def strangers(address: str) -> Iterator[list[int]]:
    """Those without keys, who break ZeroMQ's own rules, one after the other; yields how many there were."""
    dice, stop, count = random.Random(7), threading.Event(), [0]
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    right = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32) + b"\x04\xc8\x05HELLO\x01\0"

    def knock() -> None:
        while not stop.wait(0.02):
            with suppress(OSError):
                connection = socket.create_connection((host, int(port)), 1.0)
                count[0] += 1
                with connection:
                    connection.sendall(mutated(dice, right + dice.randbytes(200), dice.randbytes(400)))
                    connection.settimeout(0.01)
                    with suppress(OSError):
                        connection.recv(100)
                    if dice.random() < 0.5:
                        raw_zmtp.reset(connection)

    thread = threading.Thread(target=knock, name="strangers")
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()


@pytest.mark.timeout(3000)
def test_the_server_s_socket_takes_anything_and_nobody_else_waits(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    options = ("--secure", "--data", str(folder), "--log-format", "json", "--max-sessions", "64")
    with ExitStack() as stack:
        store = KeyStore(folder)
        stack.callback(store.close)
        cloud = stack.enter_context(CloudProcess("toy", options, program="toy_serve"))
        cloud.wait_until_ready(30.0)
        keys, server_key = new_key_pair(), server_key_pair(folder).public
        store.add(keys.public, "bystander")
        with (
            strangers(cloud.address) as knocked,
            Bystander(lambda: ZmqTransport(cloud.address, secure=client_keys(server_key, keys))) as bystander,
        ):
            attackers = Attackers(stack, cloud.address, folder, store)
            several = frames(2)
            attackers.attack(several, FRAMES // 10)
            start_mib, begun = resident_mib(cloud.pid), time.monotonic()
            attackers.attack(several, FRAMES - FRAMES // 10)
            assert attackers.heard_out()
            seconds = time.monotonic() - begun
            end_mib = resident_mib(cloud.pid)
        said = cloud._said.read_text(errors="replace")
        report(
            "socket",
            {
                "frames": attackers.sent,
                "answers read": attackers.answers,
                "strangers": knocked[0],
                "seconds": round(seconds, 1),
                "rss_mib_start": round(start_mib, 1),
                "rss_mib_end": round(end_mib, 1),
                "bystander_tokens": bystander.tokens,
                "longest_ping_ms": round(bystander.longest_ping_ms, 1),
                "longest_verdict_ms": round(bystander.longest_verdict_ms, 1),
                "lines_logged": said.count("\n"),
            },
        )
        assert not cloud.wait(0.0), said[-2000:]  # it is there still
        cloud.close()
        said = cloud._said.read_text(errors="replace") if cloud._said.exists() else said
        assert cloud._process.returncode == 0
        for word in ("Traceback", "Assertion", "exception"):
            assert word not in said
        assert bystander.tokens > 10
        assert bystander.longest_ping_ms < STALL_MS
        assert bystander.longest_verdict_ms < STALL_MS
        assert end_mib - start_mib < GROWTH_MIB
        assert said.count("\n") < 200 + 40 * seconds  # a flood of frames is no flood of lines
