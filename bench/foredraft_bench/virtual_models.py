"""A drafter and a target that know the text by heart and only take their time.

The text is trivial (the target's token is always 1, a wrong draft is 0): what matters of a text is where the drafter goes
wrong in it, and that is drawn once for each position, so that every mode and policy meets the same text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from foredraft_cloud.pages import PagedTarget, Pages
from foredraft_cloud.target import ExitView, Logits, Run
from foredraft_edge.drafters.base import Proposal
from foredraft_edge.drafters.text import Text
from foredraft_shared.messages import Position, SamplingParams, TokenId

__all__ = ["RIGHT", "Clockwork", "Exit", "Replayed", "Skill", "Times", "VirtualDrafter", "VirtualTarget"]

RIGHT, WRONG = 1, 0
_MS = 1_000_000


class Clockwork(Protocol):
    """What the models live in: how long they take, the two clocks that they move on by it, and how long the device has
    drafted in all."""

    times: Times
    seed: int
    dice: random.Random
    device_ns: int
    cloud_ns: int
    drafted_ns: int


@dataclass(frozen=True, slots=True)
class Exit:
    """An early exit of the target."""

    at: float
    """Share of a pass that it takes to get there, between 0 and 1."""
    accuracy: float
    """How often it picks the final token, where it says anything; its confidence is the same number."""
    coverage: float = 1.0
    """Share of the positions at which it is sure of anything; elsewhere its confidence is 0."""


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
    between_ms: float = 0.0
    """The server's own time between two passes."""
    loop_ms: float = 0.0
    """The device's own time for a verdict, in which it neither drafts nor waits."""
    beside: float = 0.0
    """By this share a pass takes longer while the device drafts: both are on one machine. As much as it drafted in the time since
    the pass before began, it is taken to draft during this one."""

    review: float = 0.15
    """What each further token adds to a pass in which the draft looks at several, as a share of :attr:`draft_ms`."""

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


class Replayed:
    """A skill that was recorded.

    Args:
        drawn: whether the draft was right, and the probability it claimed, for each token of an answer.
    """

    def __init__(self, drawn: Sequence[tuple[bool, float]]) -> None:
        self.drawn = drawn

    def __call__(self, position: Position) -> tuple[bool, float]:
        """See :class:`Skill`; beyond the end of what was recorded it is wrong and knows it."""
        index = position - 1  # the virtual prompt is one token
        return self.drawn[index] if index < len(self.drawn) else (False, 0.0)


class VirtualDrafter(Text):
    """Takes its time, and is right where its skill says so."""

    def __init__(self, world: Clockwork, skill: Skill | Replayed) -> None:
        super().__init__("")
        self._world = world
        self._skill = skill

    def draft(self, limit: int, params: SamplingParams) -> Iterator[Proposal]:
        for _ in range(limit):
            proposal = self._proposal(len(self._text))
            self._take_ms(self._world.times.draft_ms)
            self._text.append(proposal.token)
            yield proposal

    def review(self, start: Position, params: SamplingParams) -> Sequence[Proposal | None]:
        times, stop = self._world.times, len(self._text)
        if start < stop:
            self._take_ms(times.draft_ms * (1.0 + times.review * (stop - start - 1)))
        return [self._proposal(position) for position in range(start, stop)]

    def _proposal(self, position: Position) -> Proposal:
        right, claim = self._skill(position)
        return Proposal(RIGHT if right else WRONG, claim)

    def _take_ms(self, milliseconds: float) -> None:
        taken_ns = round(milliseconds * _MS)
        self._world.device_ns += taken_ns
        self._world.drafted_ns += taken_ns


# --- the cloud


class _Picks:
    """What a pass sees of one run: the truth, or at an exit what the exit takes for it."""

    def __init__(self, rows: int, world: Clockwork, exit_: Exit | None) -> None:
        self._rows = rows
        self._world = world
        self._exit = exit_
        self._sure: dict[int, bool] = {}

    def __len__(self) -> int:
        return self._rows

    def pick(self, row: int, params: SamplingParams, position: Position) -> TokenId:
        if self._exit is None:
            return RIGHT
        dice = random.Random(f"{self._world.seed} {position} {self._exit.at}")
        self._sure[row] = dice.random() < self._exit.coverage
        return RIGHT if dice.random() < self._exit.accuracy else WRONG

    def foresee(
        self, row: int, drafted: TokenId | None, params: SamplingParams, position: Position, trust: float
    ) -> tuple[TokenId, float]:
        token = self.pick(row, params, position)
        if self._exit is None:
            return token, 1.0
        return token, self._exit.accuracy if self._sure[row] else 0.0


class _Pass:
    def __init__(
        self, world: Clockwork, pages: Pages, batch: Sequence[Run], exits: Sequence[Exit], drafting: float
    ) -> None:
        self._world = world
        self._pages = pages
        self._batch = batch
        self._exits = list(exits)
        self._began_ns = world.cloud_ns
        times = world.times
        spread = world.dice.uniform(-times.spread, times.spread) if times.spread else 0.0
        duration_ms = times.pass_ms(sum(len(run.tokens) for run in batch)) * (1.0 + spread)
        duration_ms *= 1.0 + times.beside * drafting
        if any(run.slot.length == 0 for run in batch):
            duration_ms += times.prefill_ms
        self._duration_ns = round(duration_ms * _MS)
        self._kept = [len(run.tokens) for run in batch]

    def narrow(self, kept: Sequence[int]) -> None:
        self._kept = list(kept)

    def step(self, wanted: Sequence[bool] | None = None) -> ExitView:
        exit_ = self._exits.pop(0) if self._exits else None
        self._world.cloud_ns = self._began_ns + round(self._duration_ns * (exit_.at if exit_ else 1.0))
        logits: list[Logits | None] = [
            _Picks(run.scored - len(run.tokens) + self._kept[index], self._world, exit_)
            if run.scored > len(run.tokens) - self._kept[index] and (exit_ is None or wanted is None or wanted[index])
            else None
            for index, run in enumerate(self._batch)
        ]
        if exit_ is None:
            for run, kept in zip(self._batch, self._kept, strict=True):
                self._pages.extend(run.slot, run.tokens[:kept])
        return ExitView(round(100 * exit_.at) if exit_ else 100, exit_ is None, tuple(logits))


class VirtualTarget(PagedTarget):
    """Knows every text by heart, and takes its time to say so."""

    vocabulary = 2
    context = 1_000_000

    def __init__(self, world: Clockwork) -> None:
        super().__init__(Pages(self.context, 64, 64, lambda source, destination, count: None))
        self._world = world
        self._before = (0, 0)
        """When the last pass began, and how long the device had drafted by then."""
        self.exits = (*(round(100 * exit_.at) for exit_ in world.times.exits), 100)

    def verify(self, batch: Sequence[Run], *, exits: bool = True) -> _Pass:
        for run in batch:
            self.make_room(run.slot, run.slot.length + len(run.tokens))
        return _Pass(self._world, self.pages, batch, self._world.times.exits if exits else (), self._drafting())

    def _drafting(self) -> float:
        """The share of the time since the pass before began that the device drafted."""
        world, (before_ns, drafted_ns) = self._world, self._before
        self._before = world.cloud_ns, world.drafted_ns
        passed_ns = world.cloud_ns - before_ns
        return min(1.0, (world.drafted_ns - drafted_ns) / passed_ns) if passed_ns > 0 else 0.0
