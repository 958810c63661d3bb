"""The ways of writing a text that are compared with each other, and what one has to be to take part.

A mode is anything that answers a prompt and tells when each token came: ours differ in what the round loop may do
(:class:`OurMode`), another program is a class of its own. It says itself whether it can run here, and whether it promises
the target's own tokens: all that do are compared token by token, every time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from foredraft_edge.client import Client, RequestMode
from foredraft_edge.options import LoopOptions
from foredraft_edge.planner import Planner
from foredraft_edge.stream import TokenEvent, TokenStream
from foredraft_shared.messages import SamplingParams, TokenId
from foredraft_shared.traces import RoundRecord, TraceWriter

from .metrics import Answer, Stopwatch
from .peers.mode import PEERS
from .single_head import SINGLE_HEAD, SingleHeadPlanner

__all__ = ["MODES", "Mode", "OurMode", "Place", "Task", "Watcher"]


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be written."""

    prompt: Sequence[TokenId]
    sampling: SamplingParams
    max_tokens: int
    past_the_end: bool = False
    """Write on where the model would stop, so that every answer has ``max_tokens``."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is written: a device, connected to the cloud over a link."""

    client: Client
    """Its drafter and tokenizer are those of the run."""
    target: str
    dtype: str
    draft: str
    """The draft by its spec."""
    offline: bool = True
    """Download nothing."""
    cores: tuple[int, ...] = ()
    """Those of the cloud, on which other programs compute in its place; empty for any."""
    longest: int = 2048
    """Tokens of the longest text that will be written, its prompt included."""


class Watcher(Protocol):
    """Somebody who looks on while a text is written."""

    def token(self, event: TokenEvent, stream: TokenStream) -> None:
        """A token has become final."""


class Mode(Protocol):
    """A way of writing a text."""

    @property
    def name(self) -> str:
        """One word, for the command line and for files."""

    @property
    def title(self) -> str:
        """In a few words."""

    @property
    def label(self) -> str:
        """The same, short enough for a table."""

    @property
    def lossless(self) -> bool:
        """Whether it promises the very tokens that the target alone writes on our engine: a difference fails the run."""

    def unavailable(self, place: Place) -> str:
        """Why it cannot run here, and what to do about it, as the end of a sentence; empty if it can."""

    def answer(
        self, place: Place, task: Task, *, watcher: Watcher | None = None, trace: TraceWriter | None = None
    ) -> Answer:
        """Write one text and measure it. What it needs for the first (models, programs) it keeps until :meth:`close`."""

    def close(self) -> None:
        """Free what it holds; may be called twice."""


@dataclass(frozen=True, slots=True)
class OurMode:
    """Our own loop, with what it may do."""

    name: str
    title: str
    label: str
    request: RequestMode
    options: LoopOptions
    draft_length: int | None = None
    """Tokens a draft; by default the planner chooses."""
    planner: Callable[[], Planner] | None = None
    """Makes one for each text, in place of those that a client has."""
    needs_hints: bool = False
    """Differs from the others only where the target gives hints."""

    @property
    def lossless(self) -> bool:
        return self.request != "edge"

    def unavailable(self, place: Place) -> str:
        """See :class:`Mode`."""
        if place.client.drafter is None and self.request != "cloud":
            return "there is no draft model; name one with --draft"
        welcome = place.client.welcome
        if self.needs_hints and welcome is not None and len(welcome.exits) < 2:  # the last one is the verdict
            return "the target gives no hints, so it would be the same as drafting ahead; name its exits with --exits"
        return ""

    def answer(
        self, place: Place, task: Task, *, watcher: Watcher | None = None, trace: TraceWriter | None = None
    ) -> Answer:
        """See :class:`Mode`.

        The watcher's own time counts: in all modes it is spent between two tokens. Only while the cloud writes alone can
        the next token arrive meanwhile, so what a watcher costs is to the disadvantage of the other modes.
        """
        client = place.client
        stopwatch = Stopwatch()
        records: list[RoundRecord] = []

        def observe(record: RoundRecord) -> None:
            records.append(record)
            stopwatch.committed(record.committed)
            if trace is not None:
                trace.write(record)

        assert client.link is not None
        counters = client.link.transport.counters
        sent, received = counters.bytes_sent, counters.bytes_received
        events: list[TokenEvent] = []
        began_ns = time.perf_counter_ns()
        epoch_ns = trace.began_ns if trace else began_ns
        stream = client.stream(
            task.prompt,
            max_tokens=task.max_tokens,
            temperature=task.sampling.temperature,
            top_k=task.sampling.top_k,
            top_p=task.sampling.top_p,
            min_p=task.sampling.min_p,
            seed=task.sampling.seed,
            mode=self.request,
            draft_length=self.draft_length,
            options=self.options,
            stop_tokens=() if task.past_the_end else None,
            planner=self.planner() if self.planner is not None else None,
            observe=observe,
            epoch_ns=epoch_ns,
        )
        try:
            for event in stream:
                stopwatch.token((time.perf_counter_ns() - began_ns) / 1e6)
                events.append(event)
                if watcher is not None:
                    watcher.token(event, stream)
        finally:
            stream.close()
        return Answer(
            tokens=tuple(event.token for event in events),
            arrived_ms=tuple(stopwatch.arrived_ms),
            text="".join(event.text for event in events),
            finish=events[-1].finish if events else "",
            accepted=stream.statistics.accepted,
            draft_rounds=stream.statistics.draft_rounds,
            cloud_passes=sum(record.committed > 0 for record in records),
            bytes_up=counters.bytes_sent - sent,
            bytes_down=counters.bytes_received - received,
            records=tuple(records),
            began_us=(began_ns - epoch_ns) // 1000,
        )

    def close(self) -> None:
        """Nothing to free: client and drafter are the place's."""


MODES: Mapping[str, Mode] = MappingProxyType(
    {
        **{
            mode.name: mode
            for mode in (
                OurMode("edge", "edge alone (the draft's text)", "edge alone", "edge", LoopOptions()),
                OurMode("cloud", "cloud alone, streamed", "cloud alone", "cloud", LoopOptions()),
                OurMode(
                    "remote",
                    "cloud alone, one remote call a token",
                    "call a token",
                    "speculate",
                    LoopOptions(ahead=False, hints=False),
                    draft_length=0,
                ),
                OurMode(
                    "waiting",
                    "edge + cloud, waiting",
                    "waiting",
                    "speculate",
                    LoopOptions(ahead=False, hints=False),
                ),
                OurMode(
                    "single-head",
                    "edge + cloud, as SpecEdge drafts ahead",
                    "SpecEdge's head",
                    "speculate",
                    SINGLE_HEAD,
                    planner=SingleHeadPlanner,
                ),
                OurMode(
                    "unchained",
                    "edge + cloud, ahead, nothing sent early",
                    "unchained",
                    "speculate",
                    LoopOptions(window=1),
                ),
                OurMode(
                    "hintless",
                    "edge + cloud, ahead, hints ignored",
                    "no hints",
                    "speculate",
                    LoopOptions(hints=False),
                    needs_hints=True,
                ),
                OurMode("ahead", "edge + cloud, drafting ahead", "drafting ahead", "speculate", LoopOptions()),
                OurMode("auto", "planner free to choose", "planner", "auto", LoopOptions()),
            )
        },
        **PEERS,
    }
)
"""``cloud`` is the baseline: it streams, and so pays the round trip once a text. ``remote`` pays it for each token: what
the first idea of many is, told but never compared with. ``waiting`` drafts, then waits for the verdict; ``single-head`` does
what SpecEdge does meanwhile (:mod:`.single_head`); ``unchained`` drafts on
meanwhile, and ``ahead`` also sends it before the verdict. All these speculate throughout: the planner chooses the length
of a draft, but only in ``auto`` may it leave it to the cloud. What follows are other programs (:mod:`.peers.mode`)."""
