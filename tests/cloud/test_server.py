"""The server's two threads: the sockets never wait for the model, and both end when told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
import real_world

from foredraft_cloud.target import Run
from foredraft_cloud.toy import ToyPass, ToyTarget
from foredraft_edge.link import Link
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import GoAway, Hello, Open, Verdict, Welcome
from foredraft_shared.transports.base import Transport

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


def greeted(transport: Transport) -> tuple[Link, Welcome]:
    link = Link(transport, where="the server")
    return link, link.greet()


@pytest.mark.parametrize("transport", ["memory", "zmq"])
def test_greetings_and_pings_do_not_wait_for_the_model(transport: str):
    target = HeldTarget()
    with real_world.serving(target, transport, model="toy") as service:
        link, welcome = greeted(service.connect())
        assert (welcome.model, welcome.vocabulary, welcome.exits) == ("toy", 64, (2, 4))
        ledger = Ledger(bytes(16), (1, 2))
        link.send(Open(ledger.session, (1, 2)))
        link.send(ledger.request(1))
        assert target.begun.wait(10.0)
        other, again = greeted(service.connect())
        assert again == welcome
        assert other.ping(7, timeout_s=5.0) is not None
        target.go.set()
        verdict = link.receive(10.0)
        assert isinstance(verdict, Verdict)
        for each in (link, other):
            each.close()


@pytest.mark.parametrize("transport", ["memory", "zmq"])
def test_stop_says_goodbye_and_ends_both_threads(transport: str):
    before = set(threading.enumerate())
    with real_world.serving(ToyTarget(), transport) as service:
        link, _ = greeted(service.connect())
        service.server.stop()
        deadline = time.monotonic() + 10.0
        while link.going_away is None and time.monotonic() < deadline:
            link.receive(0.1)
        assert isinstance(link.going_away, GoAway)
        link.close()
    assert {thread for thread in set(threading.enumerate()) - before if thread.is_alive()} == set()


def test_an_idle_server_is_idle():
    """No thread spins: a second of waiting costs next to no processor time."""
    with real_world.serving(ToyTarget(), "zmq") as service:
        link, _ = greeted(service.connect())
        begun = time.process_time()
        time.sleep(1.0)
        assert time.process_time() - begun < 0.2
        link.close()


def test_statistics_after_the_end():
    with real_world.serving(ToyTarget(), "memory") as service:
        transport = service.connect()
        transport.send(Hello(1, ""))
        link, _ = greeted(transport)
        ledger = Ledger(bytes(16), (1, 2))
        link.send(Open(ledger.session, (1, 2)))
        link.send(ledger.request(5))
        got = 0
        while got < 5:
            got += isinstance(link.receive(5.0), Verdict)
        link.close()
    statistics: Any = service.server.statistics
    assert statistics.committed == statistics.passes == 5
