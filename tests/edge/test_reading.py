"""How a draft model reads: in pieces whose passes are worth their time, and so that it can go on alone at any moment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from toy_world import ToyDrafter, World, continuation

from foredraft_edge.drafters.base import Proposal
from foredraft_edge.options import LoopOptions
from foredraft_edge.pace import ReadingPace
from foredraft_edge.path import Path
from foredraft_edge.planner import FixedPlanner
from foredraft_shared.clock import ManualClock
from foredraft_shared.messages import Position, SamplingParams
from foredraft_shared.transports.faulty import Faults

GREEDY = SamplingParams()
PROMPT = (3, 1, 4, 1, 5)
PASS_S, TOKEN_S = 0.014, 0.002
"""Of SmolLM2-135M in int8 on a core."""
BUDGET_MS = 20.0


class ReadingDrafter(ToyDrafter):
    """Takes the time of a model: so much for a pass, and so much for each token in it."""

    def __init__(self, clock: ManualClock, pass_s: float = PASS_S) -> None:
        super().__init__(0.8)
        self.clock_of_world = clock
        self.pass_s = pass_s
        self.cached = 0

    def read(self, limit: int) -> int:
        read = min(limit, max(0, len(self._text) - 1 - self.cached))
        if read:
            self._pass(read)
        return max(0, len(self._text) - 1 - self.cached)

    def draft(self, limit: int, params: SamplingParams) -> Iterator[Proposal]:
        drafting = super().draft(limit, params)
        while True:
            self._pass(len(self._text) - self.cached)
            proposal = next(drafting, None)
            if proposal is None:
                return
            yield proposal

    def _drop(self, length: Position) -> None:
        self.cached = min(self.cached, length)

    def _pass(self, tokens: int) -> None:
        self.clock_of_world.advance(self.pass_s + TOKEN_S * tokens)
        self.cached += tokens


@pytest.mark.parametrize("pass_s", [0.0, PASS_S, 0.1])
def test_a_long_text_is_read_in_pieces_that_are_short_but_not_made_of_passes(pass_s: float) -> None:
    clock = ManualClock()
    drafter = ReadingDrafter(clock, pass_s)
    path = Path(drafter, GREEDY, (), lambda: round(clock.now() * 1e9))
    path.begin(range(400))
    pieces_ms = []
    while path.unread:
        pieces_ms.append(path.read(BUDGET_MS) / 1e6)
    at_once_ms = 1000 * (pass_s + 400 * TOKEN_S)
    assert sum(pieces_ms) < 2.2 * at_once_ms + 1000 * pass_s
    assert max(pieces_ms) <= 2.2 * max(BUDGET_MS, 1000 * pass_s)


def test_what_a_pass_takes_is_not_taken_for_the_time_of_its_tokens() -> None:
    pace = ReadingPace()
    assert (pace.piece(BUDGET_MS), pace.piece_ms(BUDGET_MS)) == (1, BUDGET_MS)  # to tell the two apart
    pace.took(1, 16.0)
    for _ in range(5):
        tokens = pace.piece(BUDGET_MS)
        pace.took(tokens, 14.0 + 2.0 * tokens)
    assert pace.piece(BUDGET_MS) == 9
    assert pace.piece_ms(BUDGET_MS) == pytest.approx(32.0)
    assert pace.along_ms(10) == pytest.approx(20.0)


def test_one_slow_pass_does_not_let_the_next_piece_be_the_whole_text() -> None:
    pace = ReadingPace()
    pace.took(1, 500.0)  # the model was cold
    pace.took(8, 30.0)
    assert pace.piece(BUDGET_MS) == 16


@pytest.mark.parametrize("prompt", [5, 400])
def test_a_device_that_lets_the_cloud_write_can_go_on_alone_at_any_moment(prompt: int) -> None:
    world = World(pass_s=0.02, faults=Faults(delay_s=(0.001, 0.001)))
    transport = world.transport()
    drafter = ReadingDrafter(world.clock)
    tokens = tuple(index % 60 for index in range(prompt))
    writer = world.writer(
        tokens, GREEDY, drafter, FixedPlanner(0, "cloud"), max_tokens=300,
        options=LoopOptions(on_disconnect="edge"), transport=transport,
    )  # fmt: skip
    while len(writer.text) < 200:
        assert writer.step()
    assert len(tokens) + 200 - drafter.cached < 40
    transport.kill()
    cut_at = world.clock.now()
    while not writer.provisional:
        assert writer.step()
    assert world.clock.now() - cut_at < 0.7
    while len(writer.text) + len(writer.provisional) < 300:
        assert writer.step()
    drafted_at = world.clock.now()
    assert drafted_at - cut_at < 0.7 + 110 * (PASS_S + 2 * TOKEN_S)  # the last one, too, is told when it is there
    transport.heal()
    assert writer.write() == continuation(tokens, GREEDY, 300)


def test_nothing_is_read_that_would_take_a_step_beyond_its_deadline() -> None:
    world = World(pass_s=0.02, faults=Faults(delay_s=(0.001, 0.001)))
    drafter = ReadingDrafter(world.clock, 0.03)
    writer = world.writer(
        tuple(index % 60 for index in range(400)), GREEDY, drafter, FixedPlanner(3), max_tokens=40,
        options=LoopOptions(on_disconnect="edge"),
    )  # fmt: skip
    latest = 0.0
    for step in range(60):
        due = world.clock.now() + 0.1 + 0.001 * step
        writer.loop.step(2**31, round(due * 1e9))
        while writer.step() and writer.commits[-1][1].tokens:
            pass  # until it is told that the time is over
        latest = max(latest, world.clock.now() - due)
    assert drafter.cached > 400
    assert latest <= 0.02


def test_nobody_reads_for_a_caller_who_waits_anyway() -> None:
    world = World(pass_s=0.02, faults=Faults(delay_s=(0.001, 0.001)))
    drafter = ReadingDrafter(world.clock)
    options = LoopOptions(on_disconnect="wait")
    writer = world.writer((1, 2, 3), GREEDY, drafter, FixedPlanner(0, "cloud"), max_tokens=100, options=options)
    writer.write()
    assert drafter.cached == 0


@pytest.mark.parametrize("deadline_s", [1.3, 1.5, 1.77])
def test_looking_at_the_cloud_s_stream_does_not_miss_a_deadline(deadline_s: float) -> None:
    class Curious(FixedPlanner):
        curious = True  # type: ignore[assignment]

    world = World(pass_s=0.02, faults=Faults(delay_s=(0.01, 0.01)))
    planner, drafter = Curious(0, "cloud"), ReadingDrafter(world.clock, pass_s=0.1)
    writer = world.writer(PROMPT, GREEDY, drafter, planner, max_tokens=2000, deadline_ns=round(deadline_s * 1e9))
    assert writer.write() == continuation(PROMPT, GREEDY, len(writer.text))
    assert writer.loop.finish == "deadline"
    assert planner.measured.acceptance.samples >= 2
    assert world.clock.now() < deadline_s + 0.001
