"""A whole distributed run in one thread and one clock: devices, a faulty link, and a toy cloud that takes time.

``import toy_world`` in a test::

    world = toy_world.World(pass_s=0.04, faults=Faults(delay_s=(0.01, 0.01)))
    writer = world.writer(prompt, params, toy_world.ToyDrafter(skill=0.8), FixedPlanner(4), max_tokens=32)
    assert writer.write() == toy_world.continuation(prompt, params, 32)

Nothing sleeps: whoever waits lets the cloud work, and when nobody has anything to do the clock jumps to what happens
next. A run is therefore the same every time, and a minute of silence costs nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from foredraft_bench.toy import VOCABULARY, ToyDrafter, continuation
from foredraft_cloud.engine import Engine, EngineOptions
from foredraft_cloud.target import ExitView, Run
from foredraft_cloud.toy import ToyPass, ToyTarget
from foredraft_edge.drafters.base import Drafter
from foredraft_edge.link import Link
from foredraft_edge.loop import Commit, RoundLoop
from foredraft_edge.options import LoopOptions
from foredraft_edge.planner import Planner
from foredraft_shared.clock import ManualClock
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import (
    PROTOCOL_VERSION,
    CloudMessage,
    EdgeMessage,
    Hello,
    Ping,
    Pong,
    Position,
    SamplingParams,
    TokenId,
    Welcome,
)
from foredraft_shared.traces import RoundRecord
from foredraft_shared.transports.base import Peer
from foredraft_shared.transports.faulty import Faults, FaultyTransport
from foredraft_shared.transports.memory import MemoryListener, MemoryNetwork

__all__ = ["VOCABULARY", "ToyDrafter", "World", "Writer", "continuation"]

_SPIN = 20_000
"""Looks at the link without any time passing, after which a run is taken to hang."""


class _TakingTime:
    """A toy target whose passes take time on the cloud's own clock."""

    def __init__(self, world: World, inner: ToyTarget) -> None:
        self._world = world
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def verify(self, batch: Sequence[Run], *, exits: bool = True) -> _PassTakingTime:
        rows = sum(len(run.tokens) for run in batch)
        return _PassTakingTime(self._world, self._inner.verify(batch, exits=exits), rows, self._inner.exits[-1])


class _PassTakingTime:
    def __init__(self, world: World, inner: ToyPass, rows: int, depth: int) -> None:
        self._world = world
        self._inner = inner
        self._seconds = world.pass_s + rows * world.row_s
        self._depth = depth
        self._layer = 0

    def step(self, wanted: Sequence[bool] | None = None) -> ExitView:
        view = self._inner.step(wanted)
        self._world.ahead_s += self._seconds * (view.layer - self._layer) / self._depth
        self._layer = view.layer
        return view

    def narrow(self, kept: Sequence[int]) -> None:
        self._inner.narrow(kept)


@dataclass(slots=True)
class _Answer:
    due: float
    peer: Hashable
    message: CloudMessage


class World:
    """One clock, one network, one cloud.

    Args:
        faults, seed: of every device's link.
        pass_s, row_s: what a pass takes, and each of its rows.
    """

    def __init__(
        self,
        *,
        faults: Faults | None = None,
        seed: int = 0,
        options: EngineOptions | None = None,
        exits: Sequence[int] = (2, 4),
        context: int = 4096,
        pass_s: float = 0.0,
        row_s: float = 0.0,
    ) -> None:
        self.clock = ManualClock()
        self.network = self.make_network()
        self.pass_s = pass_s
        self.row_s = row_s
        self.ahead_s = 0.0
        """How far the cloud's own clock is ahead: it computes at one instant what takes it until a later one."""
        self._faults = faults or Faults()
        self._seed = seed
        self._options = options
        self._exits = exits
        self._context = context
        self._devices = 0
        self._looked_at = -1.0
        self._looks = 0
        self.start()

    def now_ns(self) -> int:
        return round(self.clock.now() * 1e9)

    def make_network(self) -> MemoryNetwork:
        """What connects devices and cloud; another world may have another one."""
        return MemoryNetwork(self.clock, self.work)

    # --- the cloud

    def start(self) -> None:
        """Start the cloud, or start it again: the new one knows nothing of the old one's sessions."""
        self._answers: deque[_Answer] = deque()
        self._inbox: deque[tuple[Peer, EdgeMessage]] = deque()
        self._busy_until = 0.0
        self.target = ToyTarget(vocabulary=VOCABULARY, exits=self._exits, context=self._context)
        self.engine = Engine(
            _TakingTime(self, self.target),  # type: ignore[arg-type]
            self._answer,
            self._options,
            lambda: round((self.clock.now() + self.ahead_s) * 1e9),
        )
        self.listener: MemoryListener = self.network.listen()
        self.welcome = Welcome(PROTOCOL_VERSION, 1, "toy", "", VOCABULARY, self._context, tuple(self._exits))

    def stop(self) -> None:
        """The cloud is gone."""
        self.listener.close()

    def _answer(self, peer: Hashable, message: CloudMessage) -> None:
        due = self.clock.now() + self.ahead_s
        self.clock.remind(due)
        self._answers.append(_Answer(due, peer, message))

    def work(self) -> bool:
        """Let the cloud do what it can at this instant; whether that was anything."""
        now = self.clock.now()
        self._looks = self._looks + 1 if now == self._looked_at else 0
        self._looked_at = now
        assert self._looks < _SPIN, f"nothing happens any more, yet nobody waits, at {now} s"
        if self.listener.closed:
            return False
        worked = False
        while self._answers and self._answers[0].due <= now:
            answer = self._answers.popleft()
            self.listener.send(answer.peer, answer.message)  # type: ignore[arg-type]
            worked = True
        while self.listener.inbox:
            received = self.listener.receive(0)
            worked = True
            if received is None:
                continue
            peer, message = received
            if isinstance(message, Ping):
                self.listener.send(peer, Pong(message.nonce))  # by the server's other thread: it never waits
            elif isinstance(message, Hello):
                self.listener.send(peer, self.welcome)
            else:
                self._inbox.append(received)
        if now < self._busy_until:
            return worked
        while self._inbox:
            worked = True
            self.engine.receive(*self._inbox.popleft())
        self.ahead_s = 0.0
        if self.engine.step():
            worked = True
            self._busy_until = now + self.ahead_s
            self.clock.remind(self._busy_until)
        elif self.engine.pause_s:
            self.clock.remind(now + self.engine.pause_s)
        self.ahead_s = 0.0
        return worked

    # --- devices

    def transport(self) -> FaultyTransport:
        """A new device's end of a link."""
        self._devices += 1
        return FaultyTransport(self.network.connect(), self._faults, self._seed + self._devices, self.clock)

    def writer(
        self,
        prompt: Sequence[TokenId],
        params: SamplingParams,
        drafter: Drafter | None,
        planner: Planner,
        *,
        max_tokens: int = 24,
        stop_tokens: Sequence[TokenId] = (),
        max_draft: int = 64,
        options: LoopOptions | None = None,
        transport: FaultyTransport | None = None,
        deadline_ns: int | None = None,
    ) -> Writer:
        """A device that is about to write one text."""
        link = Link(transport or self.transport(), where="the toy cloud", clock=self.clock.now)
        ledger = Ledger(self._devices.to_bytes(16, "big"), prompt)
        records: list[RoundRecord] = []
        loop = RoundLoop(
            link,
            ledger,
            drafter,
            planner,
            params,
            max_tokens=max_tokens,
            stop_tokens=stop_tokens,
            max_draft=max_draft,
            options=options,
            observe=records.append,
            clock_ns=self.now_ns,
            deadline_ns=deadline_ns,
        )
        return Writer(self, link, loop, ledger, records)


class Writer:
    """One text of one device."""

    def __init__(self, world: World, link: Link, loop: RoundLoop, ledger: Ledger, records: list[RoundRecord]) -> None:
        self.link = link
        self.loop = loop
        self.ledger = ledger
        self.records = records
        self.text: list[TokenId] = []
        """What is final."""
        self.provisional: dict[Position, TokenId] = {}
        """What the caller was told and nobody has verified yet."""
        self.commits: list[tuple[float, Commit]] = []
        """With the instant of each."""
        self._world = world
        self._run = loop.run()

    def step(self) -> bool:
        """Wait for the next commit; False when the text is complete."""
        commit = next(self._run, None)
        if commit is None:
            return False
        self.take(commit)
        return True

    def take(self, commit: Commit) -> None:
        """What the caller does with a commit: believe it, and look whether it fits what came before."""
        self.commits.append((self._world.clock.now(), commit))
        told = dict(enumerate(commit.tokens, commit.position))
        if commit.provisional:
            assert commit.position <= self.ledger.length + len(self.provisional), "a gap in what is provisional"
            self._void(commit.position)
            self.provisional.update(told)
            return
        assert commit.position == self.ledger.prompt_length + len(self.text), "lost or doubled"
        self.text.extend(commit.tokens)
        otherwise = [position for position in told if self.provisional.get(position, told[position]) != told[position]]
        assert list(commit.revised) == otherwise, "a revision was not told"
        self._void(otherwise[0] if otherwise else commit.position + len(told) if commit.finish else 2**31)
        for position in told:
            self.provisional.pop(position, None)

    def _void(self, start: Position) -> None:
        for position in [position for position in self.provisional if position >= start]:
            del self.provisional[position]

    def write(self) -> list[TokenId]:
        """The whole text."""
        while self.step():
            pass
        return self.text

    def leave(self) -> None:
        """Stop in the middle, politely."""
        self._run.close()
