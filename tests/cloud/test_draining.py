"""A server that drains finishes what is under way, takes nothing new, says so, and does not wait for those who are silent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import real_world

from foredraft_cloud.server import PARTING_S, QUIET_S
from foredraft_cloud.toy import ToyPass, ToyTarget
from foredraft_edge.link import Link, SessionMessage
from foredraft_shared.errors import Overloaded
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import Failure, Open, Resume, Verdict

pytestmark = pytest.mark.timeout(30)
PROMPT = (1, 2, 3)


class SlowToyTarget(ToyTarget):
    def verify(self, batch: Any, *, exits: bool = True) -> ToyPass:
        time.sleep(0.02)
        return super().verify(batch, exits=exits)


@contextmanager
def device(service: real_world.Service) -> Iterator[Link]:
    link = Link(service.connect(), where="the server")
    try:
        link.greet()
        yield link
    finally:
        link.close()


def opened(link: Link, session: bytes = b"s" * 16, max_tokens: int = 3000) -> Ledger:
    link.send(Open(session, PROMPT, max_tokens=max_tokens))
    return Ledger(session, PROMPT)


def heard(link: Link, kind: type, timeout_s: float = 5.0) -> Any:
    """The next message of a kind."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        message: SessionMessage | None = link.receive(0.1)
        if isinstance(message, kind):
            return message
    raise AssertionError(f"no {kind.__name__}")


@pytest.mark.parametrize("transport", ["memory", "zmq"])
def test_rounds_in_flight_are_finished(transport: str):
    with real_world.serving(SlowToyTarget(), transport) as service, device(service) as link:
        link.send(opened(link).request(40))
        heard(link, Verdict)
        assert service.server.health == "ready"
        assert service.server.drain(20.0) == 1
        assert service.server.health == "draining"
        written = 1
        while written < 40:
            written += isinstance(heard(link, Verdict), Verdict)
        assert link.going_away is not None
        assert service.ended.wait(QUIET_S + 3.0)


def test_nothing_new_is_taken_and_whoever_asks_is_told_how_long_to_wait():
    with real_world.serving(SlowToyTarget(), "zmq") as service, device(service) as link:
        link.send(opened(link).request(1000))
        heard(link, Verdict)
        called: list[str] = []
        service.server.on_drain(lambda: called.append("drains"))
        service.server.drain(3.0)
        for message in (Open(b"n" * 16, PROMPT), Resume(b"m" * 16, 2, PROMPT, 3)):
            link.send(message)
            failure = heard(link, Failure)
            assert (failure.code, failure.session, failure.retryable) == (Overloaded.code, message.session, True)
            assert 1000 <= failure.retry_after_ms <= 4000
        assert called == ["drains"]
        newcomer = Link(service.connect(), where="the server")
        with pytest.raises(Overloaded, match="about to stop") as caught:
            newcomer.greet(5.0)
        newcomer.close()
        assert caught.value.retry_after_ms > 0


def test_texts_that_are_silent_do_not_hold_it_up():
    with real_world.serving(SlowToyTarget(), "zmq") as service, device(service) as link:
        link.send(opened(link).request(1))
        heard(link, Verdict)
        begun = time.monotonic()
        assert service.server.drain(25.0) == 1
        while not service.ended.is_set() and time.monotonic() < begun + 10.0:
            link.receive(0.05)
        assert time.monotonic() - begun < QUIET_S + 3.0


def test_the_end_comes_with_the_grace_whatever_is_under_way():
    with real_world.serving(SlowToyTarget(), "zmq") as service, device(service) as link:
        link.send(opened(link).request(3000))
        heard(link, Verdict)
        begun = time.monotonic()
        service.server.drain(0.5)
        assert service.ended.wait(0.5 + PARTING_S + 3.0)
        assert time.monotonic() - begun >= 0.5


def test_a_second_stop_waits_for_nobody():
    with real_world.serving(SlowToyTarget(), "zmq") as service, device(service):
        service.server.stop()
        service.server.stop()
        begun = time.monotonic()
        assert service.ended.wait(5.0)
        assert time.monotonic() - begun < PARTING_S
