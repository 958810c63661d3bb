"""A link in the hands of an adversary, and devices that can be stopped anywhere: what the stateful model plays with.

A :class:`Stage` is a :class:`toy_world.World` (one clock, one toy cloud) whose network holds every message until it is told
what becomes of it. Devices run the real round loop, but for its waits: where it would wait, it hands the word back, and
goes on when a message is there or its time has come. So all of it is one thread, and a run is the same every time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from toy_world import World, Writer

from foredraft_edge.drafters.base import Drafter
from foredraft_edge.link import Link
from foredraft_edge.loop import Commit, RoundLoop
from foredraft_edge.options import LoopOptions
from foredraft_edge.planner import Planner
from foredraft_edge.saved import SavedText, ledger_of, take_up
from foredraft_shared.errors import ForedraftError, Overloaded
from foredraft_shared.messages import Failure, FinishReason, GoAway, Open, Resume, SamplingParams, SessionId, TokenId
from foredraft_shared.transports.base import Peer
from foredraft_shared.transports.memory import MemoryListener, MemoryNetwork, MemoryTransport

__all__ = ["Device", "Direction", "Saved", "Stage", "Wire"]

Direction: TypeAlias = Literal["up", "down"]

LATENCY_S = 0.01
"""Each way, where messages flow."""
REMEMBERED = 64
"""Messages each way that may be played again."""
WAITING = Commit(0, (), 0, "")
"""What a loop yields that would wait now."""
_STEPS = 2_000
"""In one stretch of time: whoever does more than that turns in circles…"""
_STEPS_A_SECOND = 4_000
"""…and so much more for each second of it."""


@dataclass(slots=True)
class _Message:
    due: float
    data: bytes


@dataclass(slots=True, eq=False)
class Wire:
    """Both directions of one device's link."""

    peer: Peer
    transport: MemoryTransport
    up: list[_Message] = field(default_factory=list)
    down: list[_Message] = field(default_factory=list)
    seen: dict[Direction, deque[bytes]] = field(
        default_factory=lambda: {"up": deque(maxlen=REMEMBERED), "down": deque(maxlen=REMEMBERED)}
    )
    """What was ever sent, whatever became of it."""
    dead: bool = False
    """What is sent is lost…"""
    loud: bool = False
    """…and the sender is told so."""
    broken: bool = False
    """Its device is gone: it stays dead."""
    epoch: int = 0
    """The highest one of the texts written here, as a client remembers it."""

    def held(self, direction: Direction) -> list[_Message]:
        return self.up if direction == "up" else self.down


class HeldNetwork(MemoryNetwork):
    """Messages wait on the wires; who waits for one hands over to the stage."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.clock)
        self._stage = stage
        self.wires: list[Wire] = []

    def wire(self, identity: str) -> Wire:
        """A new device's link."""
        transport = super().connect()
        del self._edges[transport._peer]
        peer = Peer(transport._peer.connection, identity)
        transport._peer = peer
        self._edges[peer] = transport
        self.wires.append(Wire(peer, transport))
        return self.wires[-1]

    def to_listener(self, peer: Peer, data: bytes) -> bool:
        wire = self._of(peer)
        if wire.dead:
            return not wire.loud
        wire.seen["up"].append(data)
        wire.up.append(_Message(self.clock.now() + LATENCY_S, data))
        return self.connected() or not wire.loud

    def to_edge(self, listener: MemoryListener, peer: Peer, data: bytes) -> bool:
        wire = self._of(peer)
        if listener is not self._listener or wire.dead:
            return listener is self._listener
        wire.seen["down"].append(data)
        wire.down.append(_Message(self.clock.now() + LATENCY_S, data))
        return True

    def arrive(self, wire: Wire, direction: Direction, data: bytes) -> None:
        """Put a message before whom it is for."""
        if direction == "down":
            wire.transport.inbox.append(data)
        elif self._listener is not None and not self._listener.closed:
            self._listener.inbox.append((wire.peer, data))

    def wait(self, until: float, come_true: Callable[[], bool], idle: Callable[[], bool] | None = None) -> bool:
        device = self._stage.running
        self._stage.count_step()
        if come_true():
            return True
        if device is not None:  # the cloud only looks
            now = self.clock.now()
            # Even who only looks is held, if drafting took time: others may have done something meanwhile.
            device.held_loop.holds = until > now or now > device.looked_at
            device.wake = max(until, now)
        return False

    def _of(self, peer: Peer) -> Wire:
        return next(wire for wire in self.wires if wire.peer is peer or wire.peer == peer)


class HeldLoop(RoundLoop):
    """The round loop, but where it would wait it hands the word back: :meth:`run` yields :data:`WAITING`."""

    holds = False
    """The transport has found nothing, and no time may pass before others had their turn."""

    def _late(self) -> bool:
        return self.holds or super()._late()

    def _lapse(self) -> Generator[Commit, None, None]:
        if not self.holds:
            yield from super()._lapse()
            return
        self.holds = False
        begun_ns = self._clock_ns()
        yield WAITING
        self._accounts.waited(self._clock_ns() - begun_ns)


class Device(Writer):
    """One text on its way, written by the real loop.

    Args:
        wire: its link.
        saved: where the text is kept, beyond the end of the device.
        taken_up: go on with what is saved.
        deadline_s: when the text ends, however far it is.
    """

    def __init__(
        self,
        stage: Stage,
        wire: Wire,
        saved: Saved,
        drafter: Drafter,
        planner: Planner,
        *,
        max_draft: int,
        options: LoopOptions,
        deadline_s: float | None = None,
        taken_up: bool = False,
    ) -> None:
        self.stage = stage
        self.wire = wire
        self.saved = saved
        ledger = ledger_of(saved.text)
        if taken_up:
            take_up(ledger, saved, wire.epoch)
        wire.epoch = max(wire.epoch, ledger.epoch)
        link = Link(wire.transport, where="the toy cloud", clock=stage.clock.now)
        loop = HeldLoop(
            link,
            ledger,
            drafter,
            planner,
            saved.text.sampling,
            max_tokens=saved.text.max_tokens,
            stop_tokens=saved.text.stop_tokens,
            max_draft=max_draft,
            options=options,
            clock_ns=stage.now_ns,
            journal=saved,
            deadline_ns=None if deadline_s is None else round(deadline_s * 1e9),
        )
        super().__init__(stage, link, loop, ledger, [])
        self.held_loop = loop
        self.text = list(saved.text.tokens)
        self.restored = len(saved.text.tokens)
        self.due: float | None = deadline_s
        """When it has to hand out something, or end."""
        self.text_due = deadline_s
        self.latest = 0.0
        """By how much it was ever late, in seconds."""
        self.over = False
        self.paused = False
        """The caller does not ask for more."""
        self.left = False
        """The caller gave the text up, or the device died."""
        self.error: ForedraftError | None = None
        self.wake = 0.0
        """When it goes on by itself."""
        self.looked_at = 0.0
        """When it last gave the others a chance."""
        self.between = False
        """It has handed out something, and waits for its caller."""

    @property
    def ready(self) -> bool:
        """Whether it would do something if it were let."""
        if self.over or (self.between and self.paused):
            return False
        return self.between or bool(self.wire.transport.inbox) or self.wake <= self.stage.clock.now()

    def hurry(self, seconds: float) -> None:
        """The caller wants something handed out within so long, and will wait no longer."""
        now = self.stage.clock.now()
        self.loop.step(2**31, round((now + seconds) * 1e9))
        self.due = min(now + seconds, self.text_due or float("inf"))
        self.wake = min(self.wake, now + seconds)

    def go_on(self) -> None:
        """Let it run until it waits again."""
        self.stage.running = self
        self.between = False
        try:
            commit = next(self._run, None)
        except ForedraftError as error:
            self.error, commit = error, None
        finally:
            self.stage.running = None
        self.looked_at = self.stage.clock.now()
        if commit is WAITING:
            return
        if self.due is not None:
            self.latest = max(self.latest, self.looked_at - self.due)
            self.due = self.text_due
        if commit is None:
            self.over = True
        else:
            self.take(commit)
            self.between = True

    def leave(self) -> None:
        """Its caller gives the text up, wherever it is; says so to the cloud."""
        self.left = self.over = True
        self.wire.epoch = max(self.wire.epoch, self.ledger.epoch)
        super().leave()

    def die(self) -> None:
        """The device is gone in the middle of something; nobody says anything."""
        self.wire.broken = self.wire.dead = True
        self.wire.loud = False
        self.leave()


class Saved:
    """A text as it is kept beyond the life of its device: the loop's journal, without the disk."""

    def __init__(
        self,
        session: SessionId,
        prompt: tuple[TokenId, ...],
        params: SamplingParams,
        max_tokens: int,
        stop_tokens: tuple[TokenId, ...] = (),
    ) -> None:
        self.text = SavedText(session, prompt, params, max_tokens, stop_tokens, "toy", "", "")

    def committed(self, tokens: Sequence[TokenId], finish: FinishReason) -> None:
        self.text.tokens.extend(tokens)
        self.text.finish = finish

    def epoch(self, epoch: int) -> None:
        self.text.epoch = max(self.text.epoch, epoch)


class Stage(World):
    """A world whose messages and devices do nothing by themselves."""

    network: HeldNetwork

    def __init__(self, **options: object) -> None:
        self.running: Device | None = None
        self.devices: list[Device] = []
        self.draining = False
        self._steps_left = 0.0
        super().__init__(**options)  # type: ignore[arg-type]

    def make_network(self) -> HeldNetwork:
        return HeldNetwork(self)

    def start(self) -> None:
        self.draining = False
        super().start()
        self._receive = self.engine.receive
        self.engine.receive = self._front  # type: ignore[method-assign]

    def _front(self, peer: Peer, message: object, arrived_ns: int | None = None) -> None:
        """What the server's socket thread does with a message before the engine gets it."""
        if isinstance(message, GoAway):
            return
        if self.draining and isinstance(message, Open | Resume):
            self.listener.send(peer, GoAway(1000))
            refusal = "the server is about to stop; try again in 1 s, or use another server."
            self.listener.send(peer, Failure(Overloaded.code, refusal, True, message.session, 1000))
        else:
            self._receive(peer, message, arrived_ns)  # type: ignore[arg-type]

    def drain(self) -> None:
        """The cloud says goodbye to everybody and takes no new texts; those it has go on."""
        self.draining = True
        for wire in self.network.wires:
            self.listener.send(wire.peer, GoAway(1000))

    # --- time

    def pass_time(self, seconds: float, *, flowing: bool = True) -> None:
        """Let everybody work for so long; messages that nobody delivers arrive only where they are ``flowing``."""
        until = self.clock.now() + seconds
        self._steps_left = _STEPS + _STEPS_A_SECOND * seconds
        while True:
            while self._happens(flowing):
                self.count_step()
            now = self.clock.now()
            if now >= until:
                return
            waits = [device.wake for device in self.devices if not device.over and device.wake > now]
            if flowing:
                waits += [
                    message.due for wire in self.network.wires for held in (wire.up, wire.down) for message in held[:1]
                ]
            self.clock.wait_until(min([until, *waits]))

    def count_step(self) -> None:
        """Somebody did something, or looked for something to do.

        Raises:
            AssertionError: it has been too much for so little time: nothing will come of it any more.
        """
        self._steps_left -= 1
        assert self._steps_left > 0, (
            f"a livelock at {self.clock.now()} s: everybody is busy, and nothing happens any more"
        )

    def _happens(self, flowing: bool) -> bool:
        """Whether anything happens at this instant; it has happened then."""
        happened = False
        if flowing:
            now = self.clock.now()
            for wire in self.network.wires:
                for direction in ("up", "down"):
                    held = wire.held(direction)
                    while held and held[0].due <= now:
                        self.network.arrive(wire, direction, held.pop(0).data)
                        happened = True
        happened |= self.work()
        for device in self.devices:
            if device.ready:
                device.go_on()
                happened = True
        return happened
