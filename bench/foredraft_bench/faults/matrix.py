"""Every fault, with every way of sampling, in every mode: which cells there are, and how one is run."""

from __future__ import annotations

import contextlib
import itertools
import queue
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from foredraft_shared.errors import ForedraftError, LinkError
from foredraft_shared.messages import TokenId

from .injuries import Crowd, Fault, Injury, Scene
from .verdicts import Row, judge, told_in_two
from .world import MODES, SAMPLINGS, World

__all__ = ["Cell", "Matrix", "cells"]

_LANES = 6
"""Texts of long outages that are in the air at once."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One row to be."""

    fault: Fault
    sampling: str
    mode: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.fault.name, self.sampling, self.mode


def cells(faults: Sequence[Fault], *, every: bool = True) -> list[Cell]:
    """All combinations, or one for each fault, so that all ways of sampling and all modes have their turn."""
    ways = list(itertools.product(SAMPLINGS, MODES))
    if every:
        return [Cell(fault, *way) for fault in faults for way in ways]
    return [Cell(fault, *ways[(5 * index) % len(ways)]) for index, fault in enumerate(faults)]


class Matrix:
    """Runs cells in a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stage = threading.Lock()
        self._expected: dict[tuple[str, int], list[TokenId]] = {}

    def learn(self) -> None:
        """Write the undisturbed texts, each in every mode.

        Raises:
            ForedraftError: two modes write different ones, and nothing could be judged.
        """
        for sampling in SAMPLINGS:
            texts = {mode: self._world.undisturbed(sampling, mode, 0) for mode in MODES}
            different = [mode for mode, text in texts.items() if text != texts["cloud"]]
            if different:
                raise ForedraftError(
                    f"undisturbed, {different[0]} writes another {sampling} text than cloud; mend that first."
                )
            self._expected[sampling, 0] = texts["cloud"]
            self._expected[sampling, 1] = self._world.undisturbed(sampling, "cloud", 1)

    def run(self, wanted: Iterable[Cell]) -> Iterator[Row]:
        """Rows as they are finished: those of one long fault side by side, everything else one after the other."""
        for fault, group in itertools.groupby(wanted, key=lambda cell: cell.fault):
            if fault.long:
                yield from self._side_by_side(list(group))
            else:
                for cell in group:
                    yield self._run(cell)

    def _side_by_side(self, group: list[Cell]) -> Iterator[Row]:
        for start in range(0, len(group), _LANES):
            batch = group[start : start + _LANES]
            done: queue.SimpleQueue[Row | BaseException] = queue.SimpleQueue()

            def run(cell: Cell, done: queue.SimpleQueue[Row | BaseException] = done) -> None:
                try:
                    done.put(self._run(cell))
                except BaseException as error:
                    done.put(error)

            self._world.prepare(len(batch))
            for cell in batch:
                threading.Thread(target=run, args=(cell,), daemon=True).start()
            for _ in batch:
                row = done.get()
                if isinstance(row, BaseException):
                    raise row
                yield row

    def _run(self, cell: Cell) -> Row:
        world, settings = self._world, self._world.settings
        with contextlib.ExitStack() as stack:
            edge, link = stack.enter_context(world.edge()), stack.enter_context(world.link())
            twin = (stack.enter_context(world.edge()), stack.enter_context(world.link())) if cell.fault.twin else None
            crowd = None
            if cell.fault.crowd:
                others = Crowd(world.server.address, world.room(settings.max_tokens))
                crowd = stack.enter_context(contextlib.closing(others))
            stack.enter_context(self._stage)
            order = dict(cell.fault.order)
            if cell.fault.saved:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="foredraft-"))
                order["save"] = str(Path(folder, "text.jsonl"))
            text = edge.write(world.order(link.address, cell.sampling, cell.mode, **order))
            if not text.wait_for(settings.strike_at, 60.0):
                raise LinkError(f"{' · '.join(cell.key)}: the text did not begin: {text.error or 'nothing came'}")
            scene = Scene(world, cell.sampling, cell.mode, edge, link, text, self._stage, twin, crowd)
            injury = cell.fault.strike(scene)
            if edge.alive and not text.wait_end(settings.limit_s):
                edge.kill()  # nobody else should meet what hangs in it
            return self._judge(cell, scene, injury)

    def _judge(self, cell: Cell, scene: Scene, injury: Injury) -> Row:
        prompts = self._world.prompts
        expected = self._expected[cell.sampling, 0]
        if scene.taken_up is None:
            row = judge(*cell.key, scene.text.events, scene.text, expected, len(prompts[0]), injury)
        else:
            told = told_in_two(scene.text, scene.taken_up)
            row = judge(*cell.key, told, scene.taken_up, expected, len(prompts[0]), injury)
        for other, prompt in scene.others:
            theirs = judge(
                *cell.key, other.events, other, self._expected[cell.sampling, prompt], len(prompts[prompt]), injury
            )
            row = row.worse(theirs)
        return row
