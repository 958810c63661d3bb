"""A control loop under faults: it asks for the next tokens every time anew, and can wait 150 ms and no longer.

What is measured is when each call returns, however little it brings: tokens that the target has verified, tokens of the
device's own, or the news that there is nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any

from foredraft_shared.errors import LinkError

from .injuries import Crowd, Fault, Scene
from .texts import Step
from .world import World

__all__ = ["DEADLINE_MS", "GRACE_MS", "SteppedRow", "run_steps", "summary", "worst_faults"]

DEADLINE_MS = 150.0
GRACE_MS = 20.0
"""No call may return later than so long after its deadline."""
_STEP_TOKENS = 4
_SAMPLING, _MODE = "greedy", "chained"
_STRIKE_AFTER = 0.1
"""Share of the steps before the fault."""


@dataclass(frozen=True, slots=True)
class SteppedRow:
    """The steps of one text under one fault."""

    fault: str
    steps: int
    worst_ms: float
    """Of the calls: from being asked to returning."""
    p99_ms: float
    late: int
    """Calls that returned after the deadline and its grace."""
    verified: int
    """Calls that brought nothing but verified tokens…"""
    unverified: int
    """…that brought tokens of the device's own…"""
    empty: int
    """…and that brought none: DeadlineMissed."""
    prefix_right: bool
    """Whether what became final is the undisturbed text."""
    error: str

    @property
    def right(self) -> bool:
        """Whether the text was, as far as it came; times are another matter."""
        return self.prefix_right and not self.error


def worst_faults(faults: Sequence[Fault]) -> list[Fault]:
    """Those that can keep a server silent for longer than a step."""
    return [fault for fault in faults if fault.silences]


def run_steps(world: World, faults: Sequence[Fault], steps: int) -> Iterator[SteppedRow]:
    """Have so many steps made, in equal parts under each of the faults.

    Raises:
        LinkError: a text did not even begin.
    """
    each = -(-steps // len(faults))
    max_tokens = each * _STEP_TOKENS
    with world.edge() as edge, world.link() as link:
        text = edge.write(world.order(link.address, _SAMPLING, "cloud", max_tokens=max_tokens))
        if not text.wait_end(300.0) or text.error:
            raise LinkError(f"the undisturbed text was not written: {text.error or 'it does not end'}")
        expected = text.tokens
    for fault in faults:
        yield _run(world, fault, each, max_tokens, expected)


def _run(world: World, fault: Fault, steps: int, max_tokens: int, expected: Sequence[int]) -> SteppedRow:
    stage = threading.Lock()
    with ExitStack() as stack:
        edge, link = stack.enter_context(world.edge()), stack.enter_context(world.link())
        crowd = None
        if fault.crowd:
            crowd = stack.enter_context(closing(Crowd(world.server.address, world.room(max_tokens))))
        stack.enter_context(stage)
        changes: dict[str, Any] = {"max_tokens": max_tokens, "steps": steps, "step_tokens": _STEP_TOKENS}
        text = edge.write(
            world.order(link.address, _SAMPLING, _MODE, step_ms=DEADLINE_MS, **{**fault.order, **changes})
        )
        if not text.wait(lambda text: len(text.steps) >= _STRIKE_AFTER * steps, 60.0):
            raise LinkError(f"{fault.name}: the text did not begin: {text.error or 'nothing came'}")
        fault.strike(Scene(world, _SAMPLING, _MODE, edge, link, text, stage, crowd=crowd))
        ended = text.wait_end(steps * DEADLINE_MS / 1000 + world.settings.limit_s)
        if not ended:
            edge.kill()  # nobody else should meet what hangs in it
    final = text.tokens
    error = text.error
    if not ended:
        error = f"hangs: call {len(text.steps) + 1} did not return"
    elif not error and len(text.steps) < steps and len(final) < len(expected):
        error = f"ended after {len(text.steps)} of {steps} calls, with {len(final)} of {len(expected)} tokens"
    return _row(fault.name, text.steps, final == list(expected[: len(final)]), error)


def _row(fault: str, steps: Sequence[Step], prefix_right: bool, error: str) -> SteppedRow:
    took = sorted(step.took_ms for step in steps)
    return SteppedRow(
        fault=fault,
        steps=len(steps),
        worst_ms=round(took[-1], 2),
        p99_ms=_p99(took),
        late=sum(ms > DEADLINE_MS + GRACE_MS for ms in took),
        verified=sum(step.target > 0 and not step.edge for step in steps),
        unverified=sum(step.edge > 0 for step in steps),
        empty=sum(not step.edge and not step.target for step in steps),
        prefix_right=prefix_right,
        error=error,
    )


def summary(rows: Sequence[SteppedRow]) -> dict[str, Any]:
    """All rows, and what they come to."""
    return {
        "deadline_ms": DEADLINE_MS,
        "grace_ms": GRACE_MS,
        "steps": sum(row.steps for row in rows),
        "late": sum(row.late for row in rows),
        "worst_ms": max((row.worst_ms for row in rows), default=None),
        "rows": [asdict(row) for row in rows],
    }


def _p99(ascending: Sequence[float]) -> float:
    return round(ascending[min(len(ascending) - 1, int(0.99 * len(ascending)))], 2)
