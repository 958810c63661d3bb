"""The soak: many texts at once, a fault every few seconds, for as long as it is wanted; then nothing may have grown.

Every text has a client, a connection and a thread of its own, and is checked when it ends. Some are left in the middle, as
by a user who has seen enough; some suffer lost, doubled and reordered messages from beginning to end.
"""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from foredraft_shared.interrupts import interrupts_wait
from foredraft_shared.messages import SamplingParams
from foredraft_shared.transports.link_process import LinkProcess

from ..toy import VOCABULARY, continuation
from .resources import Growth, Sample, growth, look
from .server import TOY
from .texts import EdgeProcess, Text
from .world import MODES, SAMPLINGS, Settings, World

__all__ = ["Soak", "SoakOptions", "SoakReport"]

_PROMPTS = 12
_SAMPLES = 120
"""How often resources are looked at in the whole run."""
_PATIENCE_S = 60.0
"""A text that takes longer hangs: no fault lasts two seconds, and a text takes a few."""
_REST_S = 3.0
"""What is being closed is closed after so long."""


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """What is asked for."""

    seconds: float = 600.0
    sessions: int = 32
    devices: int = 4
    """Processes that the sessions are spread over."""
    every_s: float = 3.0
    """Mean time between two faults."""
    max_tokens: int = 64
    seed: int = 0
    growth_share: float = 0.02
    """Memory counts as flat if it grows by no more than this share…"""
    growth_floor_kib: int = 4096
    """…or by this much."""
    error_share: float = 0.1
    """So many of the texts may end with one of foredraft's own errors; in ten minutes of this on two cores none does."""


@dataclass(slots=True)
class SoakReport:
    """What came of it."""

    options: SoakOptions
    texts: int = 0
    tokens: int = 0
    left: int = 0
    """Texts that were left in the middle on purpose."""
    wrong: list[str] = field(default_factory=list)
    """Texts that are not what they should be, or hang, in words."""
    typed_errors: Counter[str] = field(default_factory=Counter)
    untyped_errors: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    growth: dict[str, Growth] = field(default_factory=dict)
    at_rest: dict[str, tuple[Sample, Sample]] = field(default_factory=dict)
    """By process, what it holds with no text being written: before and after."""
    grown: list[str] = field(default_factory=list)
    """What is not flat, in words."""
    interrupted: bool = False
    """Ended by Ctrl-C: memory was not judged."""

    @property
    def complaints(self) -> list[str]:
        """Everything that is not as it should be, in words."""
        failed, allowed = self.typed_errors.total(), self.options.error_share
        told = [*self.wrong, *self.untyped_errors, *self.grown]
        if not self.tokens and not (self.interrupted and not failed):
            told.append(f"{self.texts} texts brought no token")
        elif failed > allowed * self.texts:
            told.append(
                f"{failed} of {self.texts} texts ended with an error of foredraft's own, more than {allowed:.0%}"
            )
        return told

    @property
    def passed(self) -> bool:
        """Whether it went to its end, texts were written, few ended with an error, nothing was wrong and nothing grew."""
        return not (self.interrupted or self.complaints)

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        rest = {
            name: {"before": asdict(before), "after": asdict(after)} for name, (before, after) in self.at_rest.items()
        }
        return {
            "schema": 1,
            "passed": self.passed,
            "interrupted": self.interrupted,
            "options": asdict(self.options),
            "texts": self.texts,
            "tokens": self.tokens,
            "left": self.left,
            "wrong": self.wrong,
            "typed_errors": dict(self.typed_errors),
            "untyped_errors": self.untyped_errors,
            "faults": dict(self.faults),
            "growth": {name: asdict(each) for name, each in self.growth.items()},
            "at_rest": rest,
            "grown": self.grown,
            "complaints": self.complaints,
        }


class Soak:
    """One run; :meth:`run` may be called once.

    Args:
        tell: called with a line about how it goes, now and then.
    """

    def __init__(self, options: SoakOptions, tell: Callable[[str], None]) -> None:
        self.report = SoakReport(options)
        self._options = options
        self._tell = tell
        self._random = random.Random(options.seed)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        prompts = [[index, *(self._random.randrange(VOCABULARY) for _ in range(4))] for index in range(_PROMPTS)]
        self._expected = {
            (index, name): (prompt, params, continuation(prompt, params, options.max_tokens))
            for (index, prompt), (name, params) in itertools.product(enumerate(prompts), SAMPLINGS.items())
        }

    def run(self) -> SoakReport:
        """Do it; Ctrl-C ends it early, with a report of what was."""
        options = self._options
        settings = Settings(
            target=TOY,
            draft=TOY,
            max_tokens=options.max_tokens,
            stuck_s=1.0,
            cache=1024,
            max_sessions=2 * options.sessions,
        )
        with World(settings, idle_edges=options.devices) as world, self._devices(world) as devices:
            processes = {"server": world.server.pid}
            processes |= {f"device {index + 1}": edge.pid for index, (edge, _) in enumerate(devices)}
            self._warm_up(world, devices)
            before = {name: look(process) for name, process in processes.items()}
            writers = [
                threading.Thread(target=self._write, args=(world, *devices[index % len(devices)], index), daemon=True)
                for index in range(options.sessions)
            ]
            for writer in writers:
                writer.start()
            samples: dict[str, list[Sample]] = {name: [] for name in processes}
            try:
                self._disturb(world, devices, processes, samples)
            except KeyboardInterrupt:
                self.report.interrupted = True
                self._tell("Ctrl-C: the texts that are being written are awaited; once more to leave at once.")
            finally:
                self._stopping.set()
            for writer in writers:
                writer.join(_PATIENCE_S)
            for _, link in devices:
                link.reset()  # also what a fault left dead: in a real network TCP's keep-alive ends that in half a minute
            time.sleep(_REST_S)
            self.report.at_rest = {name: (before[name], look(process)) for name, process in processes.items()}
        self._measure(samples)
        return self.report

    @contextmanager
    def _devices(self, world: World) -> Iterator[list[tuple[EdgeProcess, LinkProcess]]]:
        with ExitStack() as stack:
            yield [
                (stack.enter_context(world.edge()), stack.enter_context(world.link()))
                for _ in range(self._options.devices)
            ]

    def _warm_up(self, world: World, devices: list[tuple[EdgeProcess, LinkProcess]]) -> None:
        """As many texts at once as there will be: what is made for the first of each is made."""
        each = -(-self._options.sessions // len(devices))
        texts = [
            edge.write(world.order(link.address, "greedy", mode))
            for edge, link in devices
            for mode in itertools.islice(itertools.cycle(MODES), each)
        ]
        for text in texts:
            text.wait_end(_PATIENCE_S)
        time.sleep(_REST_S)

    # --- texts

    def _write(self, world: World, edge: EdgeProcess, link: LinkProcess, writer: int) -> None:
        """One text after the other, until the end of the run."""
        dice = random.Random(f"{self._options.seed} {writer}")
        while not self._stopping.is_set():
            index, sampling, mode = dice.randrange(_PROMPTS), dice.choice(list(SAMPLINGS)), dice.choice(list(MODES))
            prompt, params, expected = self._expected[index, sampling]
            order = world.order(link.address, sampling, mode, **self._peculiarities(dice), prompt_tokens=prompt)
            text = edge.write(order)
            ended = text.wait_end(_PATIENCE_S)
            self._check(text, ended, expected, params)
            if text.error:
                time.sleep(1.0)  # a server that says it has too much to do should be believed

    def _peculiarities(self, dice: random.Random) -> dict[str, Any]:
        order: dict[str, Any] = {"on_disconnect": dice.choice(["wait", "edge"])}
        if dice.random() < 0.2:
            share = self._options.max_tokens
            order["leave_at"] = dice.randrange(1, share)
        if dice.random() < 0.2:
            order["faults"] = {"drop": 0.03, "duplicate": 0.03, "reorder": 0.03}
            order["faults_seed"] = dice.randrange(2**31)
        return order

    def _check(self, text: Text, ended: bool, expected: list[int], params: SamplingParams) -> None:
        tokens = text.tokens
        leaves = text.order.leave_at
        wanted = expected if leaves is None else expected[:leaves]
        with self._lock:
            self.report.texts += 1
            self.report.tokens += len(tokens)
            self.report.left += leaves is not None
            name = f"text {text.order.write} (seed {params.seed})"
            if not ended:
                self.report.wrong.append(f"{name} hangs after {len(tokens)} tokens: {text.order}")
            elif text.error and text.typed:
                self.report.typed_errors[text.error.partition(":")[0]] += 1
                if tokens != expected[: len(tokens)]:
                    self.report.wrong.append(f"{name} went wrong before it ended with {text.error}")
            elif text.error:
                self.report.untyped_errors.append(f"{name}: {text.error}")
            elif tokens != wanted:
                self.report.wrong.append(f"{name} is not what it should be: {tokens}")

    # --- faults

    def _disturb(
        self,
        world: World,
        devices: list[tuple[EdgeProcess, LinkProcess]],
        processes: dict[str, int],
        samples: dict[str, list[Sample]],
    ) -> None:
        """A fault now and then, and a look at what the processes hold, put into ``samples``, until the time is over."""
        began = time.monotonic()
        ends, interval_s = began + self._options.seconds, self._options.seconds / _SAMPLES
        next_sample, next_fault, told = began, began + self._pause_s(), 0
        while (now := time.monotonic()) < ends:
            if now >= next_sample:
                next_sample = now + interval_s
                for name, process in processes.items():
                    samples[name].append(look(process))
                if int((now - began) / 30) > told:
                    told += 1
                    self._tell(
                        f"{now - began:.0f} s: {self.report.texts} texts, {sum(self.report.faults.values())} faults, "
                        f"server {samples['server'][-1].rss_kib // 1024} MiB"
                    )
            if now >= next_fault:
                with interrupts_wait():  # a fault is over, and its processes are in step with us, before anybody leaves
                    self._strike(world, self._random.choice(devices)[1])
                next_fault = time.monotonic() + self._pause_s()
            time.sleep(max(0.0, min(next_sample, next_fault, ends) - time.monotonic()))

    def _pause_s(self) -> float:
        return self._random.expovariate(1 / self._options.every_s)

    def _strike(self, world: World, link: LinkProcess) -> None:
        """One fault, begun and over."""
        seconds = self._random.uniform(0.2, 1.8)
        kinds: dict[str, Callable[[], None]] = {
            "reset": link.reset,
            "half-open": link.half_open,
            "stall": lambda: link.stall(seconds),
            "black hole": lambda: self._hole(link, seconds, hold=False),
            "held bytes": lambda: self._hole(link, seconds, hold=True),
            "server stopped": lambda: self._stop(world, seconds),
            "server's Python stuck": lambda: world.signal_server(signal.SIGUSR1),
        }
        kind = self._random.choice(list(kinds))
        self.report.faults[kind] += 1
        kinds[kind]()

    def _hole(self, link: LinkProcess, seconds: float, *, hold: bool) -> None:
        link.black_hole(hold=hold)
        try:
            time.sleep(seconds)
        finally:
            link.heal()

    def _stop(self, world: World, seconds: float) -> None:
        world.signal_server(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            world.signal_server(signal.SIGCONT)

    # --- afterwards

    def _measure(self, samples: dict[str, list[Sample]]) -> None:
        report, options = self.report, self._options
        for name, taken in samples.items():
            with suppress(ValueError) if report.interrupted else nullcontext():  # there may be too few to tell anything
                report.growth[name] = each = growth(taken)
                if not report.interrupted and not each.is_flat(options.growth_share, options.growth_floor_kib):
                    report.grown.append(f"memory of {name} by {each.rss_slope_kib_per_minute:.0f} KiB a minute")
            before, after = report.at_rest[name]
            if after.descriptors > before.descriptors:
                report.grown.append(f"file descriptors of {name} from {before.descriptors} to {after.descriptors}")
            if after.threads > before.threads:
                report.grown.append(f"threads of {name} from {before.threads} to {after.threads}")
