"""Any bytes give a message or a typed refusal, on both sides, and what gets through harms no engine.

20,000 frames here; ``make fuzz`` takes 1,000,000.
"""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice

import pytest
from fuzz_figures import frames_wanted, report, resident_mib
from fuzz_frames import frames
from toy_world import VOCABULARY

from foredraft_cloud.caps import Caps, Turnstile
from foredraft_cloud.engine import Engine, EngineOptions
from foredraft_cloud.toy import ToyTarget
from foredraft_shared.errors import ForedraftError, Malformed
from foredraft_shared.messages import CloudMessage, EdgeMessage, Failure, Message, Open
from foredraft_shared.transports.base import Counters, Peer, edge_decode
from foredraft_shared.transports.cloud_end import CloudEnd
from foredraft_shared.wire import Codec

FRAMES = frames_wanted(20_000)
STEP_EVERY = 16
DEVICES = 4
GROWTH_MIB = 64.0


class Silent:
    """An audit log that nobody reads."""

    def refused(self, what: str, **facts: object) -> None:
        """Nothing."""


class Now:
    """A clock that goes on by a millisecond at each look, so that limits are met and pass."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        self._now += 0.001
        return self._now

    def wait_until(self, instant: float) -> None:
        self._now = max(self._now, instant)


@pytest.mark.timeout(3000)
def test_every_frame_is_a_message_or_a_typed_refusal_and_the_engine_takes_what_is_left() -> None:
    clock = Now()
    end, counters = CloudEnd(clock), Counters()
    edges = [Codec() for _ in range(DEVICES)]
    for edge in edges:  # a text each, so that some of what is said to them names one
        edge.encode(Open(bytes(16), (1, 2)))
    answered: Counter[str] = Counter()
    seen: Counter[str] = Counter()

    def send(peer: Peer, message: CloudMessage) -> None:
        seen[type(message).__name__] += 1
        if isinstance(message, Failure):
            answered[message.code] += 1
        end.encode(peer, message)

    turnstile = Turnstile(Caps(), Silent(), clock.now)  # type: ignore[arg-type]
    target = ToyTarget(vocabulary=VOCABULARY)
    engine = Engine(target, send, EngineOptions(max_sessions=16), lambda: int(clock.now() * 1e9))
    peers = [Peer(bytes([number]), f"device {number}") for number in range(DEVICES)]
    warm_mib = begun = 0.0
    longest_s = 0.0
    for number, frame in enumerate(islice(frames(1), FRAMES)):
        if number == FRAMES // 10:
            warm_mib, begun = resident_mib(), time.perf_counter()
        looked = time.perf_counter()
        edge_decode(edges[number % DEVICES], frame, counters)
        peer = peers[number % DEVICES]
        message, answer = end.decode(peer, frame)
        if answer is not None:
            assert isinstance(_answer(answer), Failure | None)
        if isinstance(message, EdgeMessage) and turnstile.passes(peer, message) is True:
            _hear(engine, peer, message)
        if number % STEP_EVERY == 0:
            engine.step()
        longest_s = max(longest_s, time.perf_counter() - looked)
    seconds = time.perf_counter() - begun
    grown_mib = resident_mib() - warm_mib
    report(
        "decoders",
        {
            "frames": FRAMES,
            "taken by the server": end.counters.messages_received - end.counters.dropped,
            "taken by a device": counters.messages_received - counters.dropped,
            "typed refusals": dict(sorted(answered.items())),
            "rss_mib_start": round(warm_mib, 1),
            "rss_mib_end": round(warm_mib + grown_mib, 1),
            "frames_per_second": round(FRAMES * 0.9 / seconds),
            "longest_frame_ms": round(longest_s * 1e3, 1),
        },
    )
    assert end.counters.messages_received == counters.messages_received == FRAMES
    assert 0 < counters.dropped < FRAMES
    assert 0 < end.counters.dropped < FRAMES
    assert seen["Verdict"] > 0
    assert set(answered) <= _codes(ForedraftError)
    assert engine.sessions <= 16 + EngineOptions().max_parked
    assert grown_mib < GROWTH_MIB


def _hear(engine: Engine, peer: Peer, message: EdgeMessage) -> None:
    if hasattr(message, "session"):
        engine.receive(peer, message)


def _answer(data: bytes) -> Message | None:
    """What the server answered; ``None`` for what names a channel that only its device knows."""
    try:
        return Codec().decode(data)
    except Malformed:
        return None


def _codes(kind: type[ForedraftError]) -> set[str]:
    return {kind.code}.union(*(_codes(child) for child in kind.__subclasses__()))
