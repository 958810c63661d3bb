"""The measuring itself: cell by cell, in each of them all modes by turns, A B C B C A …

What disturbs the machine for a while so disturbs all modes alike, and a ratio taken within a run means something even on a
machine that does other things. Nothing is lost when it is interrupted: what has been measured stands in the report.
"""

from __future__ import annotations

import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from foredraft_edge.stream import TokenEvent, TokenStream
from foredraft_shared.messages import TokenId

from ..metrics import Answer, parting
from ..modes import MODES, Place, Task
from ..peers.mode import PEERS
from ..prompts import WARM_UP
from ..runs import in_time, schedule
from ..stage import Connected, Stage, encoded
from .document import CellResult, Difference, ModeTold
from .grid import Cell, Plan
from .samples import Sample, boil_down, typical_rounds
from .sensors import PowerMeter, peak_memory_mib

__all__ = ["Progress", "expected_ms", "measure", "modes_told"]

Progress = Callable[[Cell, str, float], None]
"""Told before each step: the cell, the mode that is about to write, and what was done since the last time, in the unit of
:func:`expected_ms`."""

_PASS_MS = 30.0
"""A guess at a pass of a small target, for the time left only; the progress bar learns how wrong it is."""


def modes_told(names: Sequence[str]) -> tuple[ModeTold, ...]:
    """The modes in words, for a report."""
    modes = [MODES[name] for name in names]
    return tuple(ModeTold(mode.name, mode.title, mode.label, mode.lossless) for mode in modes)


def measure(
    plan: Plan,
    stage: Stage,
    power: PowerMeter,
    found: list[CellResult],
    progress: Progress,
    saved: Callable[[], None],
    *,
    until: float = math.inf,
) -> None:
    """Measure everything that was planned.

    Args:
        found: results are put there as they come, a prompt at a time once all modes have answered it; those to a cell's first
            prompt answer by answer.
        saved: called after each cell, to write down what there is.
        until: by ``time.monotonic``: each cell has the same share of the time left, and what does not fit into it is left
            out, whole prompts at a time; each cell has at least one.

    Raises:
        PromptTooLong: before anything is measured.
        ForedraftError: the cloud or a mode failed.
    """
    longest = max(cell.tokens for cell in plan.cells)
    for index, cell in enumerate(plan.cells):
        now = time.monotonic()
        cell_until = now + (until - now) / (len(plan.cells) - index)
        with stage.connected(
            cell.network.settings,
            recording=cell.network.recording,
            devices=cell.devices,
            seed=plan.sampling.seed,
        ) as connected:
            prompts = encoded(connected.places[0].client, plan.prompts, longest, "--lengths")
            _Measurement(plan, stage, power, connected, cell, prompts[: cell.prompts], progress).into(found, cell_until)
        saved()
    progress(plan.cells[-1], "", expected_ms(plan, plan.cells[-1], ""))


def expected_ms(plan: Plan, cell: Cell, mode: str) -> float:
    """About how long an answer takes, from nothing but the network; 0 for no mode."""
    if not mode:
        return 0.0
    rtt_ms = cell.network.settings.rtt_ms
    a_token = {"remote": _PASS_MS + rtt_ms, "waiting": _PASS_MS + rtt_ms / 3.0}.get(mode, _PASS_MS)
    return rtt_ms + cell.tokens * a_token


@dataclass(slots=True)
class _Measurement:
    """One cell."""

    plan: Plan
    stage: Stage
    power: PowerMeter
    connected: Connected
    cell: Cell
    prompts: Sequence[Sequence[TokenId]]
    progress: Progress

    def into(self, found: list[CellResult], until: float) -> None:
        cell, network = self.cell, self.cell.network
        result = CellResult(
            network.name,
            network.describe(),
            network.settings.rtt_ms,
            cell.tokens,
            cell.devices,
            cell.runs,
            len(self.prompts),
        )
        reasons = self._reasons()
        result.skipped = {name: reason for name, reason in reasons.items() if reason}
        modes = [name for name in cell.modes if not reasons[name]]
        self._warm_up(modes)
        samples: dict[str, list[Sample]] = {name: [] for name in modes}
        found.append(result)
        done_ms = 0.0
        planned = len(self.prompts) * cell.runs
        for wrote, (turn, name) in enumerate(in_time(schedule(planned, modes), until), start=1):
            self.progress(cell, name, done_ms)
            run, prompt = divmod(turn, len(self.prompts))
            before = self.power.joules()
            answers = self._answers(name, prompt)
            after = self.power.joules()
            joules = None if before is None or after is None else (after - before) / len(answers)
            for device, (index, answer) in enumerate(answers):
                samples[name].append(boil_down(answer, prompt=index, run=run, device=device, joules=joules))
            # Of a prompt that is broken off some modes would have a text that the others lack.
            if turn == 0 or wrote % len(modes) == 0:
                result.samples = {each: tuple(held) for each, held in samples.items() if held and each not in PEERS}
                result.peers = {each: tuple(held) for each, held in samples.items() if held and each in PEERS}
                result.answered = turn + 1
            if prompt == 0 and name not in PEERS:
                result.typical[name] = typical_rounds(answers[0][1])
            result.difference = result.difference or self._difference(samples)
            done_ms = expected_ms(self.plan, cell, name)
        self.progress(cell, "", done_ms)
        processes = {"edge": os.getpid(), "cloud": self.stage.cloud.pid, "network": self.connected.link_pid}
        processes |= {name: each.process_id for name, each in PEERS.items() if each.process_id is not None}
        result.peak_memory_mib = peak_memory_mib(processes)
        for each in PEERS.values():
            each.close()

    def _reasons(self) -> dict[str, str]:
        """By mode, why it cannot run; empty if it can."""
        place = self.connected.places[0]
        warm_up = len(place.client.encode(WARM_UP)) + self.plan.warm_up_tokens
        place = dataclasses.replace(place, longest=max(warm_up, *map(len, self.prompts)) + self.cell.tokens)
        found = {}
        for name in self.cell.modes:
            self.progress(self.cell, name, 0.0)
            found[name] = MODES[name].unavailable(place)
        return found

    def _warm_up(self, modes: Sequence[str]) -> None:
        """Caches, lazily made things, and what a planner learns from a first text: not measured."""
        for name in modes:
            self.progress(self.cell, name, 0.0)
            for place in self.connected.places:
                task = Task(place.client.encode(WARM_UP), self.plan.sampling, self.plan.warm_up_tokens)
                MODES[name].answer(place, task)

    def _answers(self, name: str, prompt: int) -> list[tuple[int, Answer]]:
        """Prompt and answer of each device; they write at the same time, each another prompt if there are so many."""
        indices = [(prompt + device) % len(self.prompts) for device in range(len(self.connected.places))]
        places = self.connected.places
        if len(places) == 1:
            return [(prompt, self._answer(name, places[0], prompt))]
        leaving = _Leaving()
        with ThreadPoolExecutor(len(places)) as pool:
            writing = [
                pool.submit(self._answer, name, place, index, leaving)
                for place, index in zip(places, indices, strict=True)
            ]
            try:
                return [(index, each.result()) for index, each in zip(indices, writing, strict=True)]
            except BaseException:
                leaving.now.set()  # the pool waits for all of them
                raise

    def _answer(self, name: str, place: Place, prompt: int, leaving: _Leaving | None = None) -> Answer:
        task = Task(self.prompts[prompt], self.plan.sampling, self.cell.tokens, self.plan.past_the_end)
        return MODES[name].answer(place, task, watcher=leaving)

    def _difference(self, samples: dict[str, list[Sample]]) -> Difference | None:
        """The first place where a lossless answer is not that of the first one to the same prompt."""
        expected: dict[int, tuple[str, tuple[int, ...]]] = {}
        for name, sample in _lossless(samples):
            reference, tokens = expected.setdefault(sample.prompt, (name, sample.tokens))
            if tokens == sample.tokens:
                continue
            position = parting(tokens, sample.tokens)
            said = [
                f"{mode} {'ended' if position >= len(text) else f'wrote {self.stage.spell(text[position])!r}'}"
                for mode, text in ((reference, tokens), (name, sample.tokens))
            ]
            where = f"{self.cell.title}, prompt {sample.prompt + 1}, token {position + 1}"
            return Difference(sample.prompt, position, (reference, name), f"{where}: {said[0]}, {said[1]}")
        return None


def _lossless(samples: dict[str, list[Sample]]) -> Iterator[tuple[str, Sample]]:
    for name, held in samples.items():
        if MODES[name].lossless:
            for sample in held:
                yield name, sample


class _Leaving:
    """Ends a text at its next token when it is time to leave."""

    def __init__(self) -> None:
        self.now = threading.Event()

    def token(self, event: TokenEvent, stream: TokenStream) -> None:
        """See :class:`~foredraft_bench.modes.Watcher`."""
        if self.now.is_set():
            raise InterruptedError("another device's text failed, or Ctrl-C")


def now_utc() -> str:
    """The time, as a report tells it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
