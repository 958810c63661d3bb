"""One prompt, answered in one mode, and measured; and the order in which a comparison runs them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from foredraft_edge.client import Client, RequestMode
from foredraft_edge.loop import LoopOptions
from foredraft_edge.stream import TokenEvent, TokenStream
from foredraft_shared.messages import SamplingParams, TokenId
from foredraft_shared.traces import RoundRecord, TraceWriter

from .metrics import Answer, Stopwatch

__all__ = ["MODES", "Mode", "Watcher", "answer", "schedule"]


@dataclass(frozen=True, slots=True)
class Mode:
    """A way of writing a text."""

    name: str
    title: str
    """In a few words."""
    label: str
    """The same, short enough for a table."""
    request: RequestMode
    options: LoopOptions


MODES = {
    mode.name: mode
    for mode in (
        Mode("cloud", "cloud alone", "cloud alone", "cloud", LoopOptions()),
        Mode("waiting", "edge + cloud, waiting", "waiting", "speculate", LoopOptions(ahead=False, hints=False)),
        Mode("ahead", "edge + cloud, drafting ahead", "drafting ahead", "speculate", LoopOptions()),
    )
}
"""The cloud alone, streamed; drafting, then waiting for each verdict; drafting on while verdicts are on their way. Both of
the latter speculate throughout: the planner chooses the length of a draft, but never to leave it to the cloud."""


class Watcher(Protocol):
    """Somebody who looks on while a text is written."""

    def token(self, event: TokenEvent, stream: TokenStream) -> None:
        """A token has become final."""


def answer(
    client: Client,
    prompt: Sequence[TokenId],
    mode: Mode,
    sampling: SamplingParams,
    max_tokens: int,
    *,
    watcher: Watcher | None = None,
    trace: TraceWriter | None = None,
) -> Answer:
    """Have ``prompt`` answered and measure it.

    The watcher's own time counts: in all modes it is spent between two tokens. Only while the cloud writes alone can the
    next token arrive meanwhile, so what a watcher costs is to the disadvantage of the other modes.
    """
    stopwatch = Stopwatch()
    passes = 0

    def observe(record: RoundRecord) -> None:
        nonlocal passes
        passes += record.committed > 0
        stopwatch.committed(record.committed)
        if trace is not None:
            trace.write(record)

    assert client.link is not None
    counters = client.link.transport.counters
    sent, received = counters.bytes_sent, counters.bytes_received
    events: list[TokenEvent] = []
    began = time.perf_counter()
    stream = client.stream(
        prompt,
        max_tokens=max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        mode=mode.request,
        options=mode.options,
        observe=observe,
        epoch_ns=trace.began_ns if trace else None,
    )
    try:
        for event in stream:
            stopwatch.token((time.perf_counter() - began) * 1000.0)
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
        cloud_passes=passes,
        bytes_up=counters.bytes_sent - sent,
        bytes_down=counters.bytes_received - received,
    )


def schedule(prompts: int, modes: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Prompt by prompt, each in every mode; who begins takes turns, so that a machine that warms up or is disturbed for a
    while treats all alike."""
    for prompt in range(prompts):
        turn = prompt % len(modes)
        for mode in (*modes[turn:], *modes[:turn]):
            yield prompt, mode
