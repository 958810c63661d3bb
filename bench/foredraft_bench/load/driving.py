"""Devices, a network that takes time, and a clock: one thread that lets all of them happen in order."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Sequence

from foredraft_shared.errors import LinkLost
from foredraft_shared.messages import CloudMessage, EdgeMessage

from .device import Device
from .exchange import Exchange

__all__ = ["SILENCE_S", "Drive"]

SILENCE_S = 60.0
"""After so long without a word from the server, nothing more is expected of it."""


class Drive:
    """Lets devices talk to a target.

    Args:
        rtt_s: what the network takes, half of it each way.
        clock: seconds, never running backwards.
    """

    def __init__(
        self,
        exchange: Exchange,
        devices: Sequence[Device],
        *,
        rtt_s: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._exchange = exchange
        self._devices = {device.number: device for device in devices}
        self._half_s = rtt_s / 2
        self._clock = clock
        self._order = itertools.count()
        self._up: list[tuple[float, int, int, EdgeMessage]] = []
        """On their way to the target: when they arrive, in which order they left, and whose they are."""
        self._down: list[tuple[float, int, int, CloudMessage]] = []
        self._heard_at = clock()

    def until(self, end: float) -> None:
        """Go on until the clock says ``end``.

        Raises:
            LinkLost: the server has been silent for :data:`SILENCE_S`.
        """
        while (now := self._clock()) < end:
            self._turn(now, end)

    def until_done(self) -> None:
        """Go on until every device has written all it was to write. Raises as :meth:`until`."""
        while not all(device.done for device in self._devices.values()):
            now = self._clock()
            self._turn(now, now + 1.0)

    def leave(self) -> None:
        """Let every device stop where it is."""
        for device in self._devices.values():
            for message in device.leave():
                self._exchange.send(device.number, message)

    def _turn(self, now: float, end: float) -> None:
        for device in self._devices.values():
            if (due := device.due) is not None and due <= now:
                for message in device.speak(now):
                    heapq.heappush(self._up, (now + self._half_s, next(self._order), device.number, message))
        while self._up and self._up[0][0] <= now:
            _, _, number, message = heapq.heappop(self._up)
            self._exchange.send(number, message)
        wake = min([end, *(due for device in self._devices.values() if (due := device.due) is not None)])
        wake = min([wake, *(pile[0][0] for pile in (self._up, self._down) if pile)])
        for number, answer in self._exchange.wait(wake - self._clock()):
            self._heard_at = now
            heapq.heappush(self._down, (self._clock() + self._half_s, next(self._order), number, answer))
        now = self._clock()
        while self._down and self._down[0][0] <= now:
            _, _, number, answer = heapq.heappop(self._down)
            for message in self._devices[number].hear(answer, now):
                heapq.heappush(self._up, (now + self._half_s, next(self._order), number, message))
        if now - self._heard_at > SILENCE_S:
            raise LinkLost(f"the server has been silent for {SILENCE_S:.0f} s; look at what it says.")
