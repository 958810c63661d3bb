"""The link: greeting, refusals, round trips; in virtual time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from foredraft_edge.link import Link, error_from
from foredraft_shared import errors
from foredraft_shared.clock import ManualClock
from foredraft_shared.messages import (
    PROTOCOL_VERSION,
    CloudMessage,
    EdgeMessage,
    Failure,
    GoAway,
    Hello,
    Ping,
    Pong,
    Verdict,
    Welcome,
)
from foredraft_shared.transports.faulty import Faults, FaultyTransport
from foredraft_shared.transports.memory import MemoryNetwork

WELCOME = Welcome(PROTOCOL_VERSION, 7, "toy", "f00d", 64, 4096, (2, 4))
Answer = Callable[[EdgeMessage], "CloudMessage | None"]


def greeting(message: EdgeMessage) -> CloudMessage | None:
    if isinstance(message, Hello):
        return WELCOME
    return Pong(message.nonce) if isinstance(message, Ping) else None


class Scene:
    """A device, a link that takes time, and a server that gives one answer to each message."""

    def __init__(self, answer: Answer = greeting, faults: Faults | None = None, *, listening: bool = True) -> None:
        self.clock = ManualClock()
        self.heard: list[EdgeMessage] = []
        self._answer = answer
        self.network = MemoryNetwork(self.clock, self._work)
        self.listener = self.network.listen() if listening else None
        transport = FaultyTransport(self.network.connect(), faults or Faults(delay_s=(0.01, 0.01)), 1, self.clock)
        self.transport = transport
        self.link = Link(transport, where="tcp://server:1", fingerprint="f00d", device="test", clock=self.clock.now)

    def _work(self) -> bool:
        if self.listener is None or not self.listener.inbox:
            return False
        received = self.listener.receive(0)
        if received is not None:
            peer, message = received
            self.heard.append(message)
            answer = self._answer(message)
            if answer is not None:
                self.listener.send(peer, answer)
        return True


def test_greet_tells_who_we_are_and_learns_who_answers():
    scene = Scene()
    assert scene.link.greet() == WELCOME
    assert scene.heard == [Hello(PROTOCOL_VERSION, "f00d", "test")]
    assert scene.link.rtt_ms == pytest.approx(20.0)


def test_a_server_that_was_still_loading_is_not_far_away():
    scene = Scene()
    scene.network.while_waiting = lambda: scene.clock.now() >= 0.4 and scene._work()
    assert scene.link.greet() == WELCOME
    assert scene.clock.now() > 0.4
    assert scene.link.rtt_ms == pytest.approx(20.0)
    busy = Scene()
    busy.network.while_waiting = lambda: busy.clock.now() >= 0.06 and busy._work()
    assert busy.link.greet() == WELCOME
    assert busy.link.rtt_ms == pytest.approx(20.0)
    silent = Scene(lambda message: WELCOME if isinstance(message, Hello) else None, Faults(delay_s=(0.1, 0.1)))
    assert silent.link.greet() == WELCOME
    assert silent.link.rtt_ms == pytest.approx(200.0)


@pytest.mark.parametrize("listening", [True, False])
def test_nobody_answers(listening):
    scene = Scene(lambda message: None, listening=listening)
    with pytest.raises(errors.LinkLost, match=r"tcp://server:1 within 3 s.*foredraft serve"):
        scene.link.greet(3.0)
    assert scene.clock.now() == pytest.approx(3.0, abs=0.1)
    assert len(scene.heard) <= 5


@pytest.mark.parametrize("seed", range(10))
def test_greeting_survives_a_link_that_loses_half(seed):
    scene = Scene(faults=Faults(drop=0.5, delay_s=(0.0, 0.1)))
    scene.link.transport = FaultyTransport(scene.network.connect(), Faults(drop=0.5), seed, scene.clock)
    assert scene.link.greet(60.0) == WELCOME


def test_a_server_that_starts_late_is_found():
    scene = Scene(listening=False)
    started = False

    def work() -> bool:
        nonlocal started
        if scene.clock.now() > 1.0 and not started:
            started = True
            scene.listener = scene.network.listen()
        return scene._work()

    scene.network.while_waiting = work
    assert scene.link.greet(5.0) == WELCOME
    assert scene.clock.now() < 3.0


@pytest.mark.parametrize("kind", [errors.ProtocolMismatch, errors.VocabularyMismatch, errors.Overloaded])
def test_a_refusal_is_the_error_it_names(kind):
    scene = Scene(lambda message: Failure(kind.code, "because."))
    with pytest.raises(kind, match="because"):
        scene.link.greet()


def test_a_server_of_another_protocol_is_refused():
    scene = Scene(lambda message: Welcome(9, 7, "toy", "f00d", 64, 4096, ()))
    with pytest.raises(errors.ProtocolMismatch, match="protocol 9"):
        scene.link.greet()


def test_what_is_left_of_an_earlier_text_does_not_disturb_the_greeting():
    left = [GoAway(100), Pong(3), WELCOME]
    scene = Scene(lambda message: left.pop(0) if left else None)
    assert scene.link.greet(30.0) == WELCOME


def test_ping_measures_the_server_s_own_code():
    scene = Scene()
    assert scene.link.ping(5) == pytest.approx(20.0)
    silent = Scene(lambda message: None)
    assert silent.link.ping(5, timeout_s=0.5) is None
    assert silent.clock.now() == pytest.approx(0.5)


def test_a_goodbye_is_remembered():
    scene = Scene(lambda message: GoAway(250, ("tcp://other:1",)) if isinstance(message, Ping) else None)
    scene.link.send_ping(1)
    assert scene.link.receive(1.0) == scene.link.going_away == GoAway(250, ("tcp://other:1",))
    scene.link.receive(1.0)
    assert [message for message in scene.heard if isinstance(message, GoAway)] == [GoAway()]  # the receipt


@pytest.mark.parametrize(
    ("change", "says"),
    [({"model": "another"}, "another"), ({"lossy_exit": 3}, r"layer 3 taken as final\) in place of toy")],
)
def test_a_server_that_comes_back_with_another_model_is_not_gone_on_with(change: dict[str, Any], says: str):
    said: list[CloudMessage] = [WELCOME, WELCOME, dataclasses.replace(WELCOME, **change)]
    scene = Scene(lambda message: said.pop(0))
    assert scene.link.greet() == WELCOME
    scene.link.hello()
    assert scene.link.receive(1.0) == WELCOME
    scene.link.hello()
    with pytest.raises(errors.ModelChanged, match=says):
        scene.link.receive(1.0)


def test_sending_to_nobody_is_a_lost_link():
    scene = Scene(faults=Faults(loud=True))
    scene.transport.kill()
    with pytest.raises(errors.LinkLost):
        scene.link.send(Ping(1))


def every(kind: type[errors.ForedraftError]) -> list[type[errors.ForedraftError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in every(child))]


@pytest.mark.parametrize("kind", [kind for kind in every(errors.ForedraftError) if kind.__module__ == errors.__name__])
def test_every_error_comes_back_as_itself(kind):
    error = error_from(Failure(kind.code, "what to do."))
    assert type(error) is kind
    assert str(error) == "what to do."


def test_a_peer_can_only_name_errors_that_take_a_message():
    import foredraft_shared.wire  # noqa: F401 - has an error of its own, of three values

    assert type(error_from(Failure("unknown_channel", "wait."))) is errors.ServerRefused


def test_what_cannot_be_believed_is_asked_again_and_its_verdicts_are_not_taken():
    verdict = Verdict(bytes(16), 1, 0, 5, 0, 3)
    said: list[CloudMessage] = [verdict, dataclasses.replace(WELCOME, fingerprint="dead"), verdict, WELCOME, verdict]
    sent: list[EdgeMessage] = []

    class Said:
        def send(self, message: EdgeMessage) -> None:
            sent.append(message)

        def receive(self, timeout_s: float) -> CloudMessage:
            return said.pop(0)

    def check(welcome: Welcome) -> None:
        if welcome.fingerprint != "f00d":
            raise errors.VocabularyMismatch("not ours.")

    link = Link(Said(), where="tcp://server:1", check=check)  # type: ignore[arg-type]
    assert link.receive(0.5) is None  # and it has been asked what it is
    with pytest.raises(errors.VocabularyMismatch):
        link.receive(0.5)
    assert link.welcome is None
    assert link.receive(0.5) is None
    assert link.receive(0.5) == WELCOME
    assert link.receive(0.5) == verdict
    assert [type(message) for message in sent] == [Hello, Hello]


def test_an_error_of_a_later_version_is_a_refusal():
    assert type(error_from(Failure("moon_phase", "wait."))) is errors.ServerRefused
