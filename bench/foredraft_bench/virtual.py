"""A device, a link and a cloud in virtual time: the real round loop and the real engine around a model that only takes time.

Nothing here decides anything. The loop, its planner, the ledgers, the wire format and the engine are the product's own;
what is made up is how long things take, and whether the drafter is right. The clock counts nanoseconds and jumps from one
event to the next, so a run is the same every time and costs only what the loop and the engine themselves cost.

The text is trivial (the target's token is always 1, a wrong draft is 0): what matters of a text is where the drafter goes
wrong in it, and that is drawn once for each position, so that every mode and policy meets the same text.

The cloud works as :mod:`foredraft_cloud.server` does: what arrives during a pass waits for its end. A pass is computed at
its first instant, which changes nothing, since nothing that comes later can enter it.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from foredraft_cloud.engine import Engine, EngineOptions
from foredraft_cloud.target import ExitView, Logits, Run
from foredraft_edge.drafters.base import Proposal
from foredraft_edge.drafters.text import Text
from foredraft_shared.messages import CloudMessage, EdgeMessage, Position, SamplingParams, TokenId
from foredraft_shared.transports.base import Counters, frame_bytes
from foredraft_shared.transports.profiles import LinkRecording
from foredraft_shared.transports.relay import LinkSettings
from foredraft_shared.wire import Codec, NoChannelError

__all__ = ["Exit", "Skill", "Times", "VirtualDrafter", "World"]

RIGHT, WRONG = 1, 0
_SPIN = 10_000
"""Looks at the link without any time passing, after which a run is taken to hang."""
_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Exit:
    """An early exit of the target."""

    at: float
    """Share of a pass that it takes to get there, between 0 and 1."""
    accuracy: float
    """How often it picks the final token; its confidence is the same number."""


@dataclass(frozen=True, slots=True)
class Times:
    """What takes how long, in milliseconds."""

    draft_ms: float
    """Drafting one token."""
    verify_ms: float
    """A pass that verifies a draft…"""
    row_ms: float = 0.0
    """…and how much more for each drafted token in it."""
    decode_ms: float | None = None
    """A pass that writes one token; by default ``verify_ms``."""
    prefill_ms: float = 0.0
    """Reading the prompt, before the first token."""
    spread: float = 0.0
    """Every pass takes longer or shorter by up to this share, evenly distributed."""
    exits: tuple[Exit, ...] = ()

    def pass_ms(self, rows: int) -> float:
        """A pass over so many rows: a drafted token is one, and so is the token before the draft."""
        if rows <= 1 and self.decode_ms is not None:
            return self.decode_ms
        return self.verify_ms + self.row_ms * (rows - 1)


class Skill:
    """Where the drafter is right, and how sure it is: one draw for each position of the text.

    Args:
        acceptance: probability that a drafted token is right, given that those before it were; of the first, second, …
            token since the drafter was last wrong, the last value holding for all that follow. One number: always.
        concentration: how little its own probability tells. Claims are drawn from a beta distribution with mean
            ``acceptance`` and this concentration, and a token is right with the claimed probability: a small number
            makes a draft that knows when it is wrong. ``None``: every claim is ``acceptance`` itself and tells nothing.
    """

    def __init__(
        self, acceptance: float | Sequence[float], *, concentration: float | None = None, seed: int = 0
    ) -> None:
        self._hazards = (acceptance,) if isinstance(acceptance, float | int) else tuple(acceptance)
        assert self._hazards
        assert all(0.0 <= share <= 1.0 for share in self._hazards)
        self._concentration = concentration
        self._random = random.Random(f"{seed} skill")
        self._run = 0
        self._drawn: list[tuple[bool, float]] = []

    def __call__(self, position: Position) -> tuple[bool, float]:
        """Whether it is right at ``position``, and what it claims."""
        while len(self._drawn) <= position:
            claim = self._hazards[min(self._run, len(self._hazards) - 1)]
            if self._concentration is not None and 0.0 < claim < 1.0:
                claim = self._random.betavariate(claim * self._concentration, (1.0 - claim) * self._concentration)
            right = self._random.random() < claim
            self._run = self._run + 1 if right else 0
            self._drawn.append((right, claim))
        return self._drawn[position]


class VirtualDrafter(Text):
    """Takes its time, and is right where its skill says so."""

    def __init__(self, world: World, skill: Skill) -> None:
        super().__init__("")
        self._world = world
        self._skill = skill

    def draft(self, limit: int, params: SamplingParams) -> Iterator[Proposal]:
        for _ in range(limit):
            right, claim = self._skill(len(self._text))
            self._world.device_ns += round(self._world.times.draft_ms * _MS)
            self._text.append(RIGHT if right else WRONG)
            yield Proposal(self._text[-1], claim)


# --- the link


class _Direction:
    """One way of the link: as :mod:`foredraft_shared.transports.relay` says."""

    def __init__(self, link: LinkSettings | LinkRecording, seed: str) -> None:
        self._link = link
        self._random = random.Random(seed)
        self._free_ns = 0.0
        self._due_ns = 0

    def due_ns(self, now_ns: int, size: int, stalled_until_ns: Callable[[float], float]) -> int:
        link = self._link.at(now_ns / 1e9) if isinstance(self._link, LinkRecording) else self._link
        occupied_ns = size * 8e3 / link.rate_mbps if link.rate_mbps else 0.0
        self._free_ns = max(now_ns, self._free_ns) + occupied_ns
        delay_ms = (link.rtt_ms + self._random.uniform(-link.jitter_ms, link.jitter_ms)) / 2.0
        due = stalled_until_ns(self._free_ns + max(0.0, delay_ms) * _MS)
        self._due_ns = max(self._due_ns, round(due))
        return self._due_ns


class _Stalls:
    """Stretches of time in which nothing arrives."""

    def __init__(self, link: LinkSettings | LinkRecording) -> None:
        self._every_ns = link.stall_every_s * 1e9 if isinstance(link, LinkSettings) else 0.0
        self._length_ns = link.stall_ms * _MS if isinstance(link, LinkSettings) else 0.0
        self._random = random.Random(f"{link.seed if isinstance(link, LinkSettings) else 0} stalls")
        self._begun: list[float] = []

    def until(self, due_ns: float) -> float:
        """When what is due then arrives."""
        if not self._every_ns:
            return due_ns
        while not self._begun or self._begun[-1] <= due_ns:
            last = self._begun[-1] if self._begun else 0.0
            self._begun.append(last + self._random.expovariate(1.0 / self._every_ns))
        for begun in self._begun:
            if begun <= due_ns < begun + self._length_ns:
                due_ns = begun + self._length_ns
        return due_ns


class VirtualTransport:
    """The device's end of the link."""

    def __init__(self, world: World) -> None:
        self.counters = Counters()
        self.inbox: deque[bytes] = deque()
        self.codec = Codec()
        self._world = world
        self._looked_at = -1
        self._looks = 0

    def ready(self, timeout_s: float) -> bool:
        return True

    def send(self, message: EdgeMessage) -> None:
        data = self.codec.encode(message)
        self.counters.sent(len(data))
        self._world.to_cloud(data)

    def receive(self, timeout_s: float) -> CloudMessage | None:
        world = self._world
        self._looks = self._looks + 1 if world.device_ns == self._looked_at else 0
        self._looked_at = world.device_ns
        assert self._looks < _SPIN, f"nothing happens any more, yet nobody waits, at {world.device_ns} ns"
        deadline_ns = world.device_ns + round(timeout_s * 1e9)
        while True:
            world.happen()
            if self.inbox:
                data = self.inbox.popleft()
                self.counters.received(len(data))
                message = self.codec.decode(data)
                assert isinstance(message, CloudMessage)
                return message
            following = world.next_ns()
            if following is None or following > deadline_ns:
                world.device_ns = max(world.device_ns, deadline_ns)
                return None
            world.device_ns = following

    def close(self) -> None:
        pass


# --- the cloud


@dataclass(slots=True, eq=False)
class _Slot:
    length: Position = 0


class _Picks:
    """What a pass sees of one run: the truth, or at an exit what the exit takes for it."""

    def __init__(self, rows: int, world: World, exit_: Exit | None) -> None:
        self._rows = rows
        self._world = world
        self._exit = exit_

    def __len__(self) -> int:
        return self._rows

    def pick(self, row: int, params: SamplingParams, position: Position) -> TokenId:
        if self._exit is None:
            return RIGHT
        dice = random.Random(f"{self._world.seed} {position} {self._exit.at}").random()
        return RIGHT if dice < self._exit.accuracy else WRONG

    def confidence(self, row: int, token: TokenId) -> float:
        return 1.0 if self._exit is None else self._exit.accuracy


class _Pass:
    def __init__(self, world: World, batch: Sequence[Run], exits: Sequence[Exit]) -> None:
        self._world = world
        self._batch = batch
        self._exits = list(exits)
        self._began_ns = world.cloud_ns
        times = world.times
        spread = world.dice.uniform(-times.spread, times.spread) if times.spread else 0.0
        duration_ms = times.pass_ms(sum(len(run.tokens) for run in batch)) * (1.0 + spread)
        if any(slot.length == 0 for slot in self._slots):
            duration_ms += times.prefill_ms
        self._duration_ns = round(duration_ms * _MS)

    @property
    def _slots(self) -> Iterator[_Slot]:
        for run in self._batch:
            assert isinstance(run.slot, _Slot)
            yield run.slot

    def step(self, wanted: Sequence[bool] | None = None) -> ExitView:
        exit_ = self._exits.pop(0) if self._exits else None
        self._world.cloud_ns = self._began_ns + round(self._duration_ns * (exit_.at if exit_ else 1.0))
        logits: list[Logits | None] = [
            _Picks(run.scored, self._world, exit_)
            if run.scored and (exit_ is None or wanted is None or wanted[index])
            else None
            for index, run in enumerate(self._batch)
        ]
        if exit_ is None:
            for slot, run in zip(self._slots, self._batch, strict=True):
                slot.length += len(run.tokens)
        return ExitView(round(100 * exit_.at) if exit_ else 100, exit_ is None, tuple(logits))


class _Target:
    """Knows every text by heart, and takes its time to say so."""

    vocabulary = 2
    context = 1_000_000

    def __init__(self, world: World) -> None:
        self._world = world
        self.exits = (*(round(100 * exit_.at) for exit_ in world.times.exits), 100)

    def open(self) -> _Slot:
        return _Slot()

    def release(self, slot: Any) -> None:
        pass

    def verify(self, batch: Sequence[Run], *, exits: bool = True) -> _Pass:
        return _Pass(self._world, batch, self._world.times.exits if exits else ())

    def keep(self, slot: Any, length: Position) -> None:
        slot.length = length


@dataclass(order=True, slots=True)
class _Event:
    at_ns: int
    serial: int
    kind: str = field(compare=False)
    """``"up"``: bytes reach the cloud; ``"down"``: bytes reach the device; ``"free"``: a pass has ended."""
    data: bytes = field(compare=False, default=b"")


class World:
    """One device, one link, one cloud.

    Args:
        link: settings of the emulator (:mod:`foredraft_shared.transports.profiles` has some with names), or a recording.
        seed: of jitter, of the passes' spread and of the exits.
    """

    def __init__(self, link: LinkSettings | LinkRecording, times: Times, *, seed: int = 0) -> None:
        self.times = times
        self.seed = seed
        self.dice = random.Random(f"{seed} passes")
        self.device_ns = 0
        """The device's instant: the present."""
        self.cloud_ns = 0
        """The cloud's instant: it computes at the beginning of a pass what it says until the pass's end."""
        self.transport = VirtualTransport(self)
        self.passes = 0
        self.computed_ns = 0
        self._events: list[_Event] = []
        self._serial = itertools.count()
        self._up = _Direction(link, f"{seed} up")
        self._down = _Direction(link, f"{seed} down")
        self._stalls = _Stalls(link)
        self._codec = Codec()
        self._inbox: list[tuple[bytes, int]] = []
        self._busy = False
        self._engine = Engine(_Target(self), self._answer, EngineOptions(), lambda: self.cloud_ns)

    def now_ns(self) -> int:
        return self.device_ns

    # --- for the transport

    def to_cloud(self, data: bytes) -> None:
        self.happen()
        self._push(self._up.due_ns(self.device_ns, frame_bytes(len(data)), self._stalls.until), "up", data)

    def next_ns(self) -> int | None:
        """When something happens next."""
        return self._events[0].at_ns if self._events else None

    def happen(self) -> None:
        """Let happen, in order, what has happened until now."""
        while self._events and self._events[0].at_ns <= self.device_ns:
            event = heapq.heappop(self._events)
            if event.kind == "down":
                self.transport.inbox.append(event.data)
                continue
            if event.kind == "up":
                self._inbox.append((event.data, event.at_ns))
            else:
                self._busy = False
            if not self._busy:
                self._work(event.at_ns)

    # --- the cloud

    def _work(self, at_ns: int) -> None:
        """The cloud is free: read what has come, and begin a pass if anybody waits for one."""
        self.cloud_ns = at_ns
        for data, arrived_ns in self._inbox:
            message = self._codec.decode(data)
            assert isinstance(message, EdgeMessage)
            self._engine.receive("device", message, arrived_ns)
        self._inbox.clear()
        if self._engine.step():
            self.passes += 1
            self.computed_ns += self.cloud_ns - at_ns
            self._busy = True
            self._push(self.cloud_ns, "free")

    def _answer(self, peer: object, message: CloudMessage) -> None:
        try:
            data = self._codec.encode(message)
        except NoChannelError:
            return  # the device has closed the session
        self._push(self._down.due_ns(self.cloud_ns, frame_bytes(len(data)), self._stalls.until), "down", data)

    def _push(self, at_ns: int, kind: str, data: bytes = b"") -> None:
        assert math.isfinite(at_ns)
        heapq.heappush(self._events, _Event(at_ns, next(self._serial), kind, data))
