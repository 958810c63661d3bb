"""Faults by seed: each does what it says, a run repeats exactly, and a simple protocol survives them all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foredraft_shared.clock import ManualClock
from foredraft_shared.errors import Diverged, LinkLost, StaleVerdict
from foredraft_shared.ledger import EMPTY_DIGEST, Ledger, Relation, extend_digest
from foredraft_shared.messages import Draft, NeedResume, Open, Ping, Pong, Resume, Verdict
from foredraft_shared.transports.base import Listener
from foredraft_shared.transports.faulty import Faults, FaultyListener, FaultyTransport
from foredraft_shared.transports.memory import MemoryListener, MemoryNetwork

SESSION = bytes(range(16))


def faulty_edge(faults: Faults, seed: int = 0) -> tuple[ManualClock, MemoryListener, FaultyTransport]:
    clock = ManualClock()
    network = MemoryNetwork(clock)
    return clock, network.listen(), FaultyTransport(network.connect(), faults, seed, clock)


def heard(listener: MemoryListener) -> list[int]:
    """The nonces of all pings that have arrived."""
    nonces = []
    while (received := listener.receive(0)) is not None:
        assert isinstance(received[1], Ping)
        nonces.append(received[1].nonce)
    return nonces


def pings_through(faults: Faults, count: int = 200, seed: int = 0) -> list[int]:
    clock, listener, edge = faulty_edge(faults, seed)
    nonces = []
    for nonce in range(count):
        edge.send(Ping(nonce))
        nonces += heard(listener)
        edge.receive(0.001)
    edge.receive(10)
    assert clock.now() == pytest.approx(10 + count * 0.001)
    return nonces + heard(listener)


def test_without_faults_nothing_happens() -> None:
    assert pings_through(Faults()) == list(range(200))


def test_drop() -> None:
    nonces = pings_through(Faults(drop=0.3))
    assert nonces == sorted(set(nonces))
    assert 100 < len(nonces) < 180


def test_duplicate() -> None:
    nonces = pings_through(Faults(duplicate=0.3))
    assert set(nonces) == set(range(200))
    assert 220 < len(nonces) < 300


def test_delay_keeps_the_order() -> None:
    assert pings_through(Faults(delay_s=(0.0, 0.5))) == list(range(200))


def test_reorder() -> None:
    nonces = pings_through(Faults(reorder=0.3))
    assert nonces != sorted(nonces)
    assert sorted(nonces) == list(range(200))


def test_a_delayed_message_arrives_at_its_time() -> None:
    clock, listener, edge = faulty_edge(Faults(delay_s=(0.25, 0.25)))
    edge.send(Ping(1))
    assert listener.receive(0) is None
    edge.receive(1.0)
    received = listener.receive(0)
    assert received is not None
    listener.send(received[0], Pong(1))
    assert edge.receive(1.0) == Pong(1)
    assert clock.now() == 1.25  # it was put on the line when the edge looked, at 1.0


def test_a_killed_link_loses_what_is_under_way_and_lives_again() -> None:
    clock, listener, edge = faulty_edge(Faults(delay_s=(0.1, 0.1)))
    edge.send(Ping(1))
    edge.kill(1.0)
    edge.send(Ping(2))
    edge.receive(0.5)
    assert heard(listener) == []
    edge.receive(0.5)
    edge.send(Ping(3))
    edge.receive(0.2)
    assert heard(listener) == [3]
    edge.kill()
    edge.heal()
    edge.send(Ping(4))
    edge.receive(0.2)
    assert heard(listener) == [4]
    assert clock.now() == pytest.approx(1.4)


def test_a_loud_death_is_a_lost_link() -> None:
    clock, listener, edge = faulty_edge(Faults(loud=True))
    edge.kill(1.0)
    assert not edge.ready(0.5)
    with pytest.raises(LinkLost):
        edge.send(Ping(1))
    assert edge.ready(5)
    assert clock.now() == 1.0
    edge.send(Ping(2))
    assert heard(listener) == [2]


def test_deaths_by_chance_end() -> None:
    nonces = pings_through(Faults(kill=0.02, kill_s=(0.01, 0.03)))
    assert nonces == sorted(set(nonces))
    assert 50 < len(nonces) < 190


def test_a_lost_link_below_shows_through() -> None:
    network = MemoryNetwork()
    edge = FaultyTransport(network.connect(), Faults())
    with pytest.raises(LinkLost):
        edge.send(Ping(1))


def test_wake_reaches_a_faulty_listener() -> None:
    listener = FaultyListener(MemoryNetwork().listen(), Faults())
    listener.wake()
    began = time.monotonic()
    assert listener.receive(5) is None
    assert time.monotonic() - began < 2


def test_a_faulty_listener_refuses_long_messages_as_the_one_that_works() -> None:
    network = MemoryNetwork()
    listener: Listener = FaultyListener(network.listen(), Faults())
    listener.take_messages_of(40)
    edge = network.connect()
    edge.send(Open(SESSION, tuple(range(100))))
    assert listener.receive(0) is None
    edge.reconnect()
    edge.send(Ping(1))
    assert listener.receive(1) is not None


# --- a small protocol over a terrible network


def truth(text: Sequence[int]) -> int:
    return extend_digest(EMPTY_DIGEST, text) % 3


class SmallCloud:
    """Verifies drafts, repeats its verdicts, and asks for what it does not know."""

    def __init__(self, listener: FaultyListener) -> None:
        self.listener = listener
        self.ledgers: dict[bytes, Ledger] = {}
        self.said: dict[tuple[int, int], Verdict] = {}

    def step(self) -> bool:
        received = self.listener.receive(0)
        if received is None:
            return False
        peer, message = received
        if isinstance(message, Open):
            self.ledgers.setdefault(message.session, Ledger(message.session, message.prompt, message.epoch))
        elif isinstance(message, Resume):
            known = self.ledgers.get(message.session)
            if known is None or message.epoch > known.epoch:
                self.ledgers[message.session] = Ledger(message.session, message.tokens, message.epoch)
        elif isinstance(message, Draft):
            ledger = self.ledgers.get(message.session)
            if ledger is None or message.epoch > ledger.epoch:  # of a later epoch: its Resume was lost
                self.listener.send(peer, NeedResume(message.session))
            elif message.epoch == ledger.epoch:
                self.verify(ledger, message)
                if (message.epoch, message.round) in self.said:
                    self.listener.send(peer, self.said[message.epoch, message.round])
        return True

    def verify(self, ledger: Ledger, draft: Draft) -> None:
        if ledger.receive(draft) is not Relation.CURRENT:
            return
        text = list(ledger.tokens)
        accepted = 0
        while accepted < len(draft.tokens) and draft.tokens[accepted] == truth(text):
            text.append(draft.tokens[accepted])
            accepted += 1
        verdict = Verdict(draft.session, draft.epoch, draft.round, draft.base, accepted, truth(text))
        ledger.commit(verdict)
        self.said[draft.epoch, draft.round] = verdict


def answered(ledger: Ledger, edge: FaultyTransport) -> bool:
    """Read until something new was said. A stale answer must not be answered: every echo would breed another."""
    while (answer := edge.receive(0.2)) is not None:
        if isinstance(answer, NeedResume):
            edge.send(Resume(SESSION, ledger.raise_epoch(), tuple(ledger.tokens), ledger.prompt_length))
            return True
        assert isinstance(answer, Verdict)
        with contextlib.suppress(StaleVerdict, Diverged):
            ledger.commit(answer)
            return True
    return False


def decode(edge: FaultyTransport, length: int) -> tuple[list[int], int]:
    """The text, and how often something had to be repeated."""
    prompt = (1, 2)
    ledger = Ledger(SESSION, prompt)
    repeats = 0
    edge.send(Open(SESSION, prompt))
    while ledger.length < length:
        draft = ledger.in_flight[0] if ledger.in_flight else ledger.propose((0, 1))
        edge.send(draft)
        if not answered(ledger, edge):
            repeats += 1
            assert repeats < 500
    return list(ledger.tokens[:length]), repeats


def run(up: Faults, down: Faults, seed: int) -> tuple[list[int], int, float, int]:
    clock = ManualClock()
    network = MemoryNetwork(clock)
    cloud = SmallCloud(FaultyListener(network.listen(), down, seed, clock))
    network.while_waiting = cloud.step
    edge = FaultyTransport(network.connect(), up, seed, clock)
    text, repeats = decode(edge, 30)
    return text, repeats, clock.now(), edge.counters.bytes_sent


chance = st.floats(0, 0.4)
faults = st.builds(
    Faults,
    drop=chance,
    duplicate=chance,
    delay_s=st.floats(0, 0.3).map(lambda most: (0.0, most)),
    reorder=chance,
    reorder_s=st.floats(0, 0.5),
    kill=st.floats(0, 0.05),
    kill_s=st.just((0.1, 1.0)),
)


@settings(max_examples=30, deadline=None)
@given(faults, faults, st.integers(0, 2**32))
def test_the_text_does_not_depend_on_the_faults_and_a_run_repeats_exactly(up: Faults, down: Faults, seed: int) -> None:
    expected = [1, 2]
    while len(expected) < 30:
        expected.append(truth(expected))
    first = run(up, down, seed)
    assert first[0] == expected
    assert run(up, down, seed) == first
