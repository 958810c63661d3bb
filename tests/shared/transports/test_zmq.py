"""ZeroMQ over real sockets."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import zmq
from zmq.auth.thread import ThreadAuthenticator

from foredraft_shared.errors import AddressInUse, ForedraftError, InsecureBind, LinkError, LinkLost, UsageError
from foredraft_shared.messages import (
    CloudMessage,
    Draft,
    EdgeMessage,
    Failure,
    NeedResume,
    Open,
    Ping,
    Pong,
    Resume,
    Verdict,
)
from foredraft_shared.transports.address import parse_address, parse_host_port
from foredraft_shared.transports.base import Peer
from foredraft_shared.transports.link import LinkEmulator
from foredraft_shared.transports.zmq import ZmqListener, ZmqTransport

SESSION = bytes(range(16))
WAIT_S = 5.0

Socket = TypeVar("Socket", ZmqListener, ZmqTransport)
Track = Callable[[Socket], Socket]


@pytest.fixture
def track() -> Iterator[Track]:
    """Whatever passes through here is closed after the test, edges first."""
    opened: list[ZmqListener | ZmqTransport] = []

    def remember(socket: Socket) -> Socket:
        opened.append(socket)
        return socket

    yield remember
    for socket in sorted(opened, key=lambda each: isinstance(each, ZmqListener)):
        socket.close()


def connected(track: Track, listener: ZmqListener) -> ZmqTransport:
    edge = track(ZmqTransport(listener.address))
    assert edge.ready(WAIT_S)
    return edge


def heard(listener: ZmqListener) -> tuple[Peer, EdgeMessage]:
    received = listener.receive(WAIT_S)
    assert received is not None
    return received


def exchange(listener: ZmqListener, edge: ZmqTransport) -> Peer:
    edge.send(Ping(9))
    peer, message = heard(listener)
    assert message == Ping(9)
    assert listener.send(peer, Pong(9))
    assert edge.receive(WAIT_S) == Pong(9)
    return peer


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "ipc"])
def test_messages_go_both_ways(track: Track, kind: str, tmp_path: Path) -> None:
    address = {"tcp": "tcp://127.0.0.1:0", "tcp6": "tcp://[::1]:0", "ipc": f"ipc://{tmp_path}/s"}[kind]
    try:
        listener = track(ZmqListener(address))
    except LinkError as error:
        if kind != "tcp6":
            raise
        pytest.skip(f"no IPv6 here: {error}")
    assert not listener.address.endswith(":0")
    edges = [connected(track, listener) for _ in range(2)]
    assert len({exchange(listener, edge) for edge in edges}) == 2
    assert edges[0].counters.bytes_sent == edges[0].counters.bytes_received == 6


def test_a_whole_prompt_passes(track: Track) -> None:
    listener = track(ZmqListener())
    edge = connected(track, listener)
    opening = Open(SESSION, tuple(range(100_000)))
    edge.send(opening)
    assert heard(listener)[1] == opening
    assert edge.counters.bytes_sent == listener.counters.bytes_received


def test_the_counters_tell_what_is_on_the_network(track: Track) -> None:
    listener = track(ZmqListener())
    with LinkEmulator(listener.address) as link:
        edge = track(ZmqTransport(link.address, heartbeat_ms=60_000))
        assert edge.ready(WAIT_S)
        exchange(listener, edge)
        greeted, counted = link.statistics(), dataclasses.replace(edge.counters)
        edge.send(Open(SESSION, tuple(range(1000))))  # a long frame
        peer, _ = heard(listener)
        for number in range(1, 20):
            edge.send(Draft(SESSION, 1, number, 1000 + number, 2**63, (5, 6, 7)))
            heard(listener)
            assert listener.send(peer, Verdict(SESSION, 1, number, 1000 + number, 0, 5))
            assert edge.receive(WAIT_S) is not None
        after = link.statistics()
        assert after.bytes_up - greeted.bytes_up == edge.counters.bytes_sent - counted.bytes_sent
        assert after.bytes_down - greeted.bytes_down == edge.counters.bytes_received - counted.bytes_received
        edge.close()


def test_nobody_there(track: Track) -> None:
    probe = track(ZmqListener())
    address = probe.address
    probe.close()
    began = time.monotonic()
    edge = track(ZmqTransport(address))
    assert not edge.ready(0.1)
    with pytest.raises(LinkLost, match="server runs"):
        edge.send(Ping(1))
    assert edge.receive(0.1) is None
    assert time.monotonic() - began < 2


def test_an_edge_may_start_before_its_server(track: Track) -> None:
    probe = track(ZmqListener())
    address = probe.address
    probe.close()
    edge = track(ZmqTransport(address))
    assert not edge.ready(0.05)
    listener = track(ZmqListener(address))
    assert edge.ready(WAIT_S)
    exchange(listener, edge)


def test_after_a_restart_the_edge_is_connected_again_and_asked_to_resume(track: Track) -> None:
    listener = track(ZmqListener())
    address = listener.address
    edge = connected(track, listener)
    edge.send(Open(SESSION, (1,)))
    heard(listener)
    listener.close()
    restarted = track(ZmqListener(address))

    def say(message: EdgeMessage) -> CloudMessage | None:
        """Until somebody hears it: what is said in the moment of the break is lost."""
        for _ in range(50):
            if edge.ready(WAIT_S):
                edge.send(message)
            assert restarted.receive(0.1) is None
            if (answer := edge.receive(0.1)) is not None:
                return answer
        return None

    assert say(Draft(SESSION, 1, 1, 1, 0, (5,))) == NeedResume(SESSION)
    resume = Resume(SESSION, 2, (1,), 1)
    edge.send(resume)
    peer, message = heard(restarted)
    assert message == resume
    verdict = Verdict(SESSION, 2, 1, 1, 0, 5)
    assert restarted.send(peer, verdict)
    assert edge.receive(WAIT_S) == verdict


def test_a_broken_connection_keeps_peer_and_channels(track: Track) -> None:
    listener = track(ZmqListener())
    with LinkEmulator(listener.address) as link:
        edge = track(ZmqTransport(link.address))
        assert edge.ready(WAIT_S)
        edge.send(Open(SESSION, (1,)))
        peer, _ = heard(listener)
        link.reset()
        draft = Draft(SESSION, 1, 1, 1, 0, (5,))
        received = None
        for _ in range(50):
            if edge.ready(WAIT_S):
                edge.send(draft)
            if (received := listener.receive(0.1)) is not None:
                break
        assert received == (peer, draft)
        edge.close()


def test_a_silently_dead_link_is_noticed_by_heartbeats(track: Track) -> None:
    listener = track(ZmqListener())
    with LinkEmulator(listener.address) as link:
        edge = track(ZmqTransport(link.address, heartbeat_ms=200))
        assert edge.ready(WAIT_S)
        link.black_hole()
        edge.send(Ping(1))  # seems to succeed
        deadline = time.monotonic() + WAIT_S
        while edge.ready(0) and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(LinkLost):
            edge.send(Ping(1))
        link.heal()
        assert edge.ready(10)
        exchange(listener, edge)
        edge.close()


def test_a_vanished_peer_is_no_error(track: Track) -> None:
    listener = track(ZmqListener())
    edge = connected(track, listener)
    peer = exchange(listener, edge)
    edge.close()
    for _ in range(100):
        if not listener.send(peer, Pong(1)):
            break
        time.sleep(0.02)
    assert not listener.send(peer, Pong(1))
    assert not listener.send(Peer(b"never seen"), Pong(1))


def test_wake_ends_a_wait_from_another_thread(track: Track) -> None:
    listener = track(ZmqListener())
    threading.Timer(0.05, listener.wake).start()
    began = time.monotonic()
    assert listener.receive(WAIT_S) is None
    assert time.monotonic() - began < 2
    for _ in range(100_000):  # more than the pipe holds
        listener.wake()
    assert listener.receive(WAIT_S) is None
    assert listener.receive(0) is None
    listener.close()
    listener.wake()


# --- what a stranger may send


@pytest.fixture
def stranger() -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        yield socket


def test_garbage_is_counted_answered_a_few_times_and_harms_nobody(track: Track, stranger: zmq.Socket[bytes]) -> None:
    listener = track(ZmqListener())
    edge = connected(track, listener)
    stranger.connect(listener.address)
    for _ in range(40):
        stranger.send(b"\xff\xff\xff")
    stranger.send_multipart([b"", b"two frames"])
    while listener.counters.dropped < 41:
        assert listener.receive(0.1) is None
    answers = 0
    while stranger.poll(100):
        stranger.recv()
        answers += 1
    assert 1 <= answers <= 20
    exchange(listener, edge)


def test_malformed_is_answered_with_what_is_wrong(track: Track) -> None:
    listener = track(ZmqListener())
    edge = connected(track, listener)
    edge._socket.send(b"\xff")
    assert listener.receive(0.2) is None
    answer = edge.receive(WAIT_S)
    assert isinstance(answer, Failure)
    assert answer.code == "malformed"


def test_what_only_a_server_says_is_refused_from_an_edge(track: Track) -> None:
    listener = track(ZmqListener())
    edge = connected(track, listener)
    edge._socket.send(edge._codec.encode(Pong(1)))
    assert listener.receive(0.2) is None
    assert isinstance(edge.receive(WAIT_S), Failure)


def test_messages_beyond_the_size_limit_cost_the_sender_its_connection(
    track: Track, stranger: zmq.Socket[bytes]
) -> None:
    listener = track(ZmqListener())
    edge = connected(track, listener)
    stranger.connect(listener.address)
    stranger.send(bytes(5 * 2**20))
    assert listener.receive(0.3) is None
    assert listener.counters.messages_received == 0
    exchange(listener, edge)


# --- where to listen


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_address_in_use(track: Track, kind: str, tmp_path: Path) -> None:
    listener = track(ZmqListener("tcp://127.0.0.1:0" if kind == "tcp" else f"ipc://{tmp_path}/s"))
    with pytest.raises(AddressInUse, match="another process listens"):
        ZmqListener(listener.address)
    exchange(listener, connected(track, listener))


def test_a_path_left_behind_by_a_dead_server_is_free(track: Track, tmp_path: Path) -> None:
    first = track(ZmqListener(f"ipc://{tmp_path}/s"))
    first.close()
    exchange(second := track(ZmqListener(f"ipc://{tmp_path}/s")), connected(track, second))


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "[::]", "192.0.2.1", "eth0", "example.org"])  # noqa: S104
def test_beyond_loopback_only_with_authentication(host: str) -> None:
    with pytest.raises(InsecureBind, match="no authentication"):
        ZmqListener(f"tcp://{host}:0")


def test_with_authentication_any_address_will_do(track: Track) -> None:
    seen: list[object] = []
    listener = track(ZmqListener("tcp://0.0.0.0:0", secure=seen.append))
    assert len(seen) == 1
    assert listener.address.startswith("tcp://0.0.0.0:")


def test_with_keys_a_peer_has_an_identity_and_strangers_stay_outside(track: Track) -> None:
    server_public, server_secret = zmq.curve_keypair()
    known_public, known_secret = zmq.curve_keypair()
    stranger_public, stranger_secret = zmq.curve_keypair()

    class AllowList:
        def callback(self, domain: str, key: bytes) -> bool:
            return key == known_public

    def as_server(socket: zmq.Socket[bytes]) -> None:
        socket.curve_server = True
        socket.curve_secretkey = server_secret
        socket.zap_domain = b"edge"

    def as_edge(public: bytes, secret: bytes) -> Callable[[zmq.Socket[bytes]], None]:
        def secure(socket: zmq.Socket[bytes]) -> None:
            socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = public, secret, server_public

        return secure

    with zmq.Context() as context:
        authenticator = ThreadAuthenticator(context)
        authenticator.start()
        authenticator.configure_curve_callback(domain="edge", credentials_provider=AllowList())
        try:
            listener = track(ZmqListener(secure=as_server, context=context))
            edge = track(ZmqTransport(listener.address, secure=as_edge(known_public, known_secret)))
            assert edge.ready(WAIT_S)
            assert exchange(listener, edge).identity == known_public.decode()
            refused = track(ZmqTransport(listener.address, secure=as_edge(stranger_public, stranger_secret)))
            assert not refused.ready(0.3)
            listener.close()
        finally:
            authenticator.stop()


def test_an_address_of_another_machine() -> None:
    with pytest.raises(LinkError, match="not an address of this machine"):
        ZmqListener("tcp://192.0.2.1:0", secure=lambda socket: None)


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1:5555", "tcp://", "tcp://127.0.0.1", "tcp://h:70000", "tcp://h:x", "udp://h:1", "ipc://"]
)
def test_what_is_not_an_address(address: str) -> None:
    with pytest.raises(UsageError):
        ZmqListener(address)
    with pytest.raises(UsageError):
        ZmqTransport(address)


def test_every_error_is_one_line() -> None:
    with pytest.raises(ForedraftError) as caught:
        ZmqListener("tcp://*:1")
    assert "\n" not in str(caught.value)


def test_parsing() -> None:
    assert parse_address("tcp://[::1]:5") == ("tcp", "::1")
    assert parse_address("ipc:///run/x") == ("ipc", "/run/x")
    assert parse_host_port("tcp://a:1") == parse_host_port("a:1") == ("a", 1)
