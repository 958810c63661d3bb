"""What counts as a right row of steps with a deadline; devices and world are made up."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from foredraft_bench.faults.deadlines import SteppedRow, run_steps
from foredraft_bench.faults.injuries import Fault, Injury
from foredraft_bench.faults.texts import Event, Step, Text

STEPS = 10
EXPECTED = list(range(4 * STEPS))


class Edge:
    """Writes the undisturbed text whole, and then one of so many steps."""

    def __init__(self, steps: int, brought: int, *, ends: bool) -> None:
        self.killed = False
        self._kinds = iter([(0, len(EXPECTED), True), (steps, brought, ends)])

    def write(self, order: Any) -> Text:
        steps, tokens, ends = next(self._kinds)
        text = Text(order, steps=[Step(10.0, 0, 4)] * steps)
        text.events = [Event(0.0, position, position, "target") for position in EXPECTED[:tokens]]
        text.ended_at = 1.0 if ends else None
        return text

    def kill(self) -> None:
        self.killed = True


def stepped(edge: Edge) -> SteppedRow:
    world = SimpleNamespace(
        settings=SimpleNamespace(limit_s=-10.0),
        edge=lambda: contextlib.nullcontext(edge),
        link=lambda: contextlib.nullcontext(SimpleNamespace(address="nowhere")),
        order=lambda *_, **__: None,
    )
    (row,) = run_steps(world, [Fault("black hole", lambda scene: Injury(0.0, 0.0))], STEPS)  # type: ignore[arg-type]
    return row


def test_all_steps_in_time_are_right() -> None:
    row = stepped(Edge(STEPS, 31, ends=True))
    assert (row.right, row.steps, row.late) == (True, STEPS, 0)


def test_a_text_may_be_finished_before_its_steps_are_over() -> None:
    assert stepped(Edge(STEPS - 2, len(EXPECTED), ends=True)).right


def test_a_call_that_never_returns_is_wrong() -> None:
    edge = Edge(3, 12, ends=False)
    row = stepped(edge)
    assert edge.killed
    assert not row.right
    assert row.error == "hangs: call 4 did not return"


@pytest.mark.parametrize("steps", [3, STEPS - 1])
def test_a_text_that_ends_without_a_word_before_its_steps_are_over_is_wrong(steps: int) -> None:
    row = stepped(Edge(steps, 12, ends=True))
    assert not row.right
    assert f"{steps} of {STEPS} calls" in row.error
