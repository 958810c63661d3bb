"""The server's two threads: the sockets never wait for the model, and both end when told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import real_world

from foredraft_cloud.target import Run
from foredraft_cloud.toy import ToyPass, ToyTarget
from foredraft_edge.link import Link
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import Open, Verdict, Welcome

pytestmark = pytest.mark.timeout(30)


class HeldTarget(ToyTarget):
    """Its passes wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.go = threading.Event()

    def verify(self, batch: Sequence[Run], *, exits: bool = True) -> ToyPass:
        self.begun.set()
        assert self.go.wait(20.0)
        return super().verify(batch, exits=exits)


@contextmanager
def greeted(service: real_world.Service) -> Iterator[tuple[Link, Welcome]]:
    link = Link(service.connect(), where="the server")
    try:
        yield link, link.greet()
    finally:
        link.close()


def reads_goodbye(link: Link) -> bool:
    deadline = time.monotonic() + 10.0
    while link.going_away is None and time.monotonic() < deadline:
        link.receive(0.1)
    return link.going_away is not None


@pytest.mark.parametrize("transport", ["memory", "zmq"])
def test_greetings_and_pings_do_not_wait_for_the_model(transport: str):
    target = HeldTarget()
    with real_world.serving(target, transport, model="toy") as service, greeted(service) as (link, welcome):
        assert (welcome.model, welcome.vocabulary, welcome.exits) == ("toy", 64, (2, 4))
        try:
            ledger = Ledger(bytes(16), (1, 2))
            link.send(Open(ledger.session, (1, 2)))
            link.send(ledger.request(1))
            assert target.begun.wait(10.0)
            with greeted(service) as (other, again):
                assert again == welcome
                assert other.ping(7, timeout_s=5.0) is not None
        finally:
            target.go.set()
        assert isinstance(link.receive(10.0), Verdict)


@pytest.mark.parametrize("transport", ["memory", "zmq"])
def test_stop_says_goodbye_and_ends_both_threads(transport: str):
    before = set(threading.enumerate())
    with real_world.serving(ToyTarget(), transport) as service, greeted(service) as (link, _):
        service.server.stop()
        assert reads_goodbye(link)
    assert {thread for thread in set(threading.enumerate()) - before if thread.is_alive()} == set()


@pytest.mark.parametrize("transport", ["memory", "zmq"])
def test_a_device_that_was_busy_still_reads_what_was_said_last(transport: str):
    """ZeroMQ throws away what has arrived and is not read when the server closes: so the server waits for the receipt."""
    with real_world.serving(ToyTarget(), transport) as service, greeted(service) as (link, _):
        ledger = Ledger(bytes(16), (1, 2))
        link.send(Open(ledger.session, (1, 2)))
        link.send(ledger.request(1))
        assert wait_for(lambda: service.server.statistics.committed == 1)
        service.server.stop()
        time.sleep(0.4)  # the device drafts, say
        assert isinstance(link.receive(5.0), Verdict)
        assert reads_goodbye(link)


def test_a_device_that_never_reads_holds_up_the_end_for_a_second_only():
    with real_world.serving(ToyTarget(), "zmq") as service, greeted(service):
        begun = time.monotonic()
        service.server.stop()
        assert service.ended.wait(5.0)
        assert time.monotonic() - begun < 2.5


def test_an_idle_server_is_idle():
    """No thread spins: a second of waiting costs next to no processor time."""
    with real_world.serving(ToyTarget(), "zmq") as service, greeted(service):
        begun = time.process_time()
        time.sleep(1.0)
        assert time.process_time() - begun < 0.2


def test_statistics_after_the_end():
    with real_world.serving(ToyTarget(), "memory") as service, greeted(service) as (link, _):
        ledger = Ledger(bytes(16), (1, 2))
        link.send(Open(ledger.session, (1, 2)))
        link.send(ledger.request(5))
        got = 0
        while got < 5:
            got += isinstance(link.receive(5.0), Verdict)
    statistics = service.server.statistics
    assert statistics.committed == statistics.passes == 5


def wait_for(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10.0
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()
