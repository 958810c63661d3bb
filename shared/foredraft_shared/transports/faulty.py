"""Transports that misbehave on purpose: around any other, by a seed, and by the clock they are given.

Faults happen to whole messages, in both directions. They happen when the owner looks: a held message goes out, or comes
in, at the first ``send`` or ``receive`` after its time, so no thread is needed and a run with a
:class:`foredraft_shared.clock.ManualClock` repeats exactly.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..clock import Clock, SystemClock
from ..errors import LinkLost
from ..messages import CloudMessage, EdgeMessage
from .base import Counters, Listener, Peer, Transport

__all__ = ["Faults", "FaultyListener", "FaultyTransport"]

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to messages, each way. Chances are from 0 to 1 and independent; all zero: nothing happens."""

    drop: float = 0.0
    """Chance that a message is lost."""
    duplicate: float = 0.0
    """Chance that it comes twice, the second one with a delay of its own."""
    delay_s: tuple[float, float] = (0.0, 0.0)
    """Every message takes between these, evenly distributed; order is kept."""
    reorder: float = 0.0
    """Chance that a message is held back while later ones pass it…"""
    reorder_s: float = 0.05
    """…for at most this long."""
    kill: float = 0.0
    """Chance that the link dies with a message: it and everything under way is lost…"""
    kill_s: tuple[float, float] = (0.1, 1.0)
    """…and everything for so long after it."""
    loud: bool = False
    """Whether sending into a dead link raises :class:`LinkLost` (a reset) or seems to succeed (a black hole)."""


class _Fate:
    """Whether the link lives; shared by its two directions."""

    def __init__(self, faults: Faults, clock: Clock) -> None:
        self.faults = faults
        self.clock = clock
        self.deaths = 0
        self.dead_until = -1.0

    @property
    def dead(self) -> bool:
        return self.clock.now() < self.dead_until

    def kill(self, seconds: float) -> None:
        self.deaths += 1
        self.dead_until = self.clock.now() + seconds
        self.clock.remind(self.dead_until)

    def heal(self) -> None:
        self.dead_until = -1.0


class _Line(Generic[Item]):
    """One direction: messages go in, and come out when it is their time, if ever."""

    def __init__(self, fate: _Fate, seed: str) -> None:
        self._fate = fate
        self._random = random.Random(seed)
        self._held: list[tuple[float, int, Item]] = []  # (due, serial, message): equal times keep their order
        self._serial = itertools.count()
        self._last_due = 0.0
        self._deaths_seen = 0

    def put(self, item: Item) -> None:
        faults, dice = self._fate.faults, self._random
        # Always the same number of draws a message, so that one fault more or less leaves the others where they were.
        dropped, doubled, held_back, killed = (dice.random() for _ in range(4))
        delays = [dice.uniform(*faults.delay_s), dice.uniform(*faults.delay_s)]
        extra, outage = dice.uniform(0.0, faults.reorder_s), dice.uniform(*faults.kill_s)
        self._forget_if_killed()
        if self._fate.dead:
            return
        if killed < faults.kill:
            self._fate.kill(outage)
            return
        if dropped < faults.drop:
            return
        now = self._fate.clock.now()
        if held_back < faults.reorder:
            self._hold(now + delays[0] + extra, item)
        else:
            self._last_due = max(self._last_due, now + delays[0])
            self._hold(self._last_due, item)
        if doubled < faults.duplicate:
            self._hold(now + delays[1] + extra, item)

    def take(self) -> Item | None:
        """The next message whose time has come."""
        self._forget_if_killed()
        if self._held and self._held[0][0] <= self._fate.clock.now():
            return heapq.heappop(self._held)[2]
        return None

    def clear(self) -> None:
        """Lose what is under way."""
        self._held.clear()

    def next_due(self) -> float:
        self._forget_if_killed()
        return self._held[0][0] if self._held else float("inf")

    def _hold(self, due: float, item: Item) -> None:
        heapq.heappush(self._held, (due, next(self._serial), item))
        self._fate.clock.remind(due)

    def _forget_if_killed(self) -> None:
        if self._deaths_seen != self._fate.deaths:
            self._deaths_seen = self._fate.deaths
            self._held.clear()


class FaultyTransport:
    """An edge's transport whose messages suffer.

    Args:
        inner: the transport that works.
        seed: the same seed, faults and messages give the same fates.
        clock: that of ``inner``, if it has one.
    """

    def __init__(self, inner: Transport, faults: Faults, seed: int = 0, clock: Clock | None = None) -> None:
        self.inner = inner
        self._clock = clock or SystemClock()
        self._fate = _Fate(faults, self._clock)
        self._up: _Line[EdgeMessage] = _Line(self._fate, f"{seed} up")
        self._down: _Line[CloudMessage] = _Line(self._fate, f"{seed} down")

    @property
    def counters(self) -> Counters:
        """Those of the inner transport: what was dropped on the way up was never sent."""
        return self.inner.counters

    def ready(self, timeout_s: float) -> bool:
        deadline = self._clock.now() + timeout_s
        while self._fate.dead and self._fate.faults.loud:
            now = self._clock.now()
            if now >= deadline:
                return False
            self._clock.sleep(min(deadline, self._fate.dead_until) - now)
        return self.inner.ready(max(0.0, deadline - self._clock.now()))

    def send(self, message: EdgeMessage) -> None:
        if self._fate.dead and self._fate.faults.loud:
            raise LinkLost("the faulty transport is dead just now; try again later.")
        self._up.put(message)
        self._flush(message)

    def receive(self, timeout_s: float) -> CloudMessage | None:
        deadline = self._clock.now() + timeout_s
        while True:
            self._flush()
            while (arrived := self.inner.receive(0)) is not None:
                self._down.put(arrived)
            message = self._down.take()
            if message is not None:
                return message
            now = self._clock.now()
            if now >= deadline:
                return None
            arrived = self.inner.receive(min(deadline, self._up.next_due(), self._down.next_due()) - now)
            if arrived is not None:
                self._down.put(arrived)

    def kill(self, seconds: float = float("inf")) -> None:
        """Let the link die for so long; everything under way is lost."""
        self._fate.kill(seconds)

    def heal(self) -> None:
        """Let it live again."""
        self._fate.heal()

    def reconnect(self) -> None:
        self._up.clear()
        self._down.clear()
        self.inner.reconnect()

    def close(self) -> None:
        self.inner.close()

    def _flush(self, now_sent: EdgeMessage | None = None) -> None:
        while (message := self._up.take()) is not None:
            try:
                self.inner.send(message)
            except LinkLost:
                if message is now_sent:  # of an older one the sender has long believed that it went out
                    raise


class FaultyListener:
    """A cloud's listener whose messages suffer, those of all its peers alike.

    Args:
        inner: the listener that works.
        seed, clock: as for :class:`FaultyTransport`.
    """

    def __init__(self, inner: Listener, faults: Faults, seed: int = 0, clock: Clock | None = None) -> None:
        self.inner = inner
        self._clock = clock or SystemClock()
        self._fate = _Fate(faults, self._clock)
        self._up: _Line[tuple[Peer, EdgeMessage]] = _Line(self._fate, f"{seed} up")
        self._down: _Line[tuple[Peer, CloudMessage]] = _Line(self._fate, f"{seed} down")
        self._woken = False

    @property
    def counters(self) -> Counters:
        return self.inner.counters

    @property
    def address(self) -> str:
        return self.inner.address

    def receive(self, timeout_s: float) -> tuple[Peer, EdgeMessage] | None:
        deadline = self._clock.now() + timeout_s
        while True:
            self._flush()
            while (arrived := self.inner.receive(0)) is not None:
                self._up.put(arrived)
            message = self._up.take()
            if message is not None:
                return message
            if self._woken:
                self._woken = False
                return None
            now = self._clock.now()
            if now >= deadline:
                return None
            arrived = self.inner.receive(min(deadline, self._up.next_due(), self._down.next_due()) - now)
            if arrived is not None:
                self._up.put(arrived)

    def send(self, peer: Peer, message: CloudMessage) -> bool:
        """As the inner one, but True says only that the message was taken: what becomes of it nobody knows."""
        if self._fate.dead and self._fate.faults.loud:
            return False
        self._down.put((peer, message))
        self._flush()
        return True

    def take_messages_of(self, longest: int) -> None:
        self.inner.take_messages_of(longest)

    def wake(self) -> None:
        self._woken = True
        self.inner.wake()

    def kill(self, seconds: float = float("inf")) -> None:
        """Let the link die for so long; everything under way is lost."""
        self._fate.kill(seconds)

    def heal(self) -> None:
        """Let it live again."""
        self._fate.heal()

    def close(self) -> None:
        self.inner.close()

    def _flush(self) -> None:
        while (entry := self._down.take()) is not None:
            self.inner.send(*entry)
