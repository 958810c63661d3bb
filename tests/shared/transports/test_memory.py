"""The in-memory network, with threads and without."""

from __future__ import annotations

import threading
import time

import pytest

from foredraft_shared.clock import ManualClock
from foredraft_shared.errors import LinkLost
from foredraft_shared.messages import Close, Draft, Hello, NeedResume, Open, Ping, Pong, Resume, Verdict
from foredraft_shared.transports.base import Peer
from foredraft_shared.transports.memory import MemoryNetwork

SESSION = bytes(range(16))


def test_many_edges_reach_one_listener_and_each_gets_its_own_answer() -> None:
    network = MemoryNetwork()
    listener = network.listen()
    edges = [network.connect() for _ in range(3)]
    for number, edge in enumerate(edges):
        edge.send(Ping(number))
    peers = []
    for number in range(3):
        received = listener.receive(0)
        assert received is not None
        assert received[1] == Ping(number)
        peers.append(received[0])
    for number in (2, 0, 1):
        assert listener.send(peers[number], Pong(number))
    assert [edge.receive(0) for edge in edges] == [Pong(0), Pong(1), Pong(2)]
    assert [edge.receive(0) for edge in edges] == [None] * 3


def test_bytes_are_counted_as_on_the_wire() -> None:
    network = MemoryNetwork()
    listener = network.listen()
    edge = network.connect()
    edge.send(Ping(1))
    listener.receive(0)
    assert edge.counters.messages_sent == listener.counters.messages_received == 1
    assert edge.counters.bytes_sent == listener.counters.bytes_received == 6  # 4, and 2 of ZeroMQ's header


def test_nobody_listens() -> None:
    network = MemoryNetwork()
    edge = network.connect()
    assert not edge.ready(0)
    with pytest.raises(LinkLost):
        edge.send(Ping(1))
    network.listen()
    assert edge.ready(0)
    edge.send(Ping(1))


def test_a_full_queue_is_a_lost_link_for_one_edge_only() -> None:
    network = MemoryNetwork(capacity=2)
    network.listen()
    full, other = network.connect(), network.connect()
    full.send(Ping(1))
    full.send(Ping(2))
    with pytest.raises(LinkLost):
        full.send(Ping(3))
    other.send(Ping(1))


def test_a_closed_edge_and_a_closed_session_are_not_errors() -> None:
    network = MemoryNetwork()
    listener, edge = network.listen(), network.connect()
    edge.send(Open(SESSION, (1,)))
    received = listener.receive(0)
    assert received is not None
    peer = received[0]
    edge.send(Close(SESSION))
    listener.receive(0)
    assert not listener.send(peer, Verdict(SESSION, 1, 1, 1, 0, 5))
    edge.close()
    assert not listener.send(peer, Pong(1))
    assert not listener.send(Peer(b"never seen"), Pong(1))


def test_after_a_restart_of_the_server_the_edge_is_asked_to_resume() -> None:
    network = MemoryNetwork()
    old, edge = network.listen(), network.connect()
    edge.send(Open(SESSION, (1,)))
    old.receive(0)
    old.close()
    new = network.listen()
    edge.send(Draft(SESSION, 1, 1, 1, 0, (5,)))
    assert new.receive(0) is None
    assert edge.receive(0) == NeedResume(SESSION)
    resume = Resume(SESSION, 2, (1,), 1)
    edge.send(resume)
    received = new.receive(0)
    assert received is not None
    assert received[1] == resume


def test_receive_blocks_until_a_message_comes_from_another_thread() -> None:
    network = MemoryNetwork()
    listener, edge = network.listen(), network.connect()

    def serve() -> None:
        received = listener.receive(5)
        assert received is not None
        listener.send(received[0], Pong(7))

    server = threading.Thread(target=serve)
    server.start()
    edge.send(Ping(7))
    assert edge.receive(5) == Pong(7)
    server.join()


def test_wake_ends_a_wait_and_is_not_lost_before_one() -> None:
    listener = MemoryNetwork().listen()
    threading.Timer(0.05, listener.wake).start()
    began = time.monotonic()
    assert listener.receive(5) is None
    assert time.monotonic() - began < 2
    listener.wake()
    assert listener.receive(5) is None


def test_without_threads_the_server_takes_a_step_whenever_the_edge_waits() -> None:
    clock = ManualClock()
    network = MemoryNetwork(clock)
    listener, edge = network.listen(), network.connect()

    def step() -> bool:
        received = listener.receive(0)
        if received is None:
            return False
        assert isinstance(received[1], Ping)
        listener.send(received[0], Pong(received[1].nonce))
        return True

    network.while_waiting = step
    edge.send(Ping(3))
    assert edge.receive(10) == Pong(3)
    assert clock.now() == 0
    assert edge.receive(10) is None
    assert clock.now() == 10


def test_a_reminder_stops_the_jump_of_the_clock() -> None:
    clock = ManualClock()
    clock.remind(2.0)
    clock.remind(1.0)
    steps = []
    network = MemoryNetwork(clock, while_waiting=lambda: bool(steps.append(clock.now())))  # type: ignore[func-returns-value]
    network.listen()
    assert network.connect().receive(3.0) is None
    assert steps == [0.0, 1.0, 2.0, 3.0]


def test_a_message_no_cloud_may_say_is_dropped_by_the_edge() -> None:
    network = MemoryNetwork()
    listener, edge = network.listen(), network.connect()
    edge.inbox.append(edge._codec.encode(Hello(1, "")))
    edge.inbox.append(b"\xff\xff")
    assert edge.receive(0) is None
    assert edge.counters.dropped == 2
    assert listener.receive(0) is None
