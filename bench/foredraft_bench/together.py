"""``foredraft bench engine --sessions``: what a pass costs that serves many sessions at once, and the engine around it.

The real engine is given a round of every session, does one pass, and is timed; the numbers of sessions take turns, a pass
each, so that whatever else the machine does falls on all alike.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import median

from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import CloudMessage, Open, Verdict
from foredraft_shared.models import Model

from .room import check_room

__all__ = ["Together", "measure_together"]

_WARM = 2
"""Passes of each kind that are not counted."""


@dataclass(frozen=True, slots=True)
class Together:
    """Passes of one kind."""

    sessions: int
    drafted: int
    """Tokens in the draft of each."""
    median_ms: float
    cpu_ms: float
    """Least processor time of all threads."""
    latency: float
    """By processor time, of that with one session and the same draft: how much longer a verdict takes…"""
    throughput: float
    """…and how many more rounds are verified in the same time."""
    outside: float
    """Share of the pass that is not the model's: scheduling, judging, answering."""


def measure_together(
    model: Model, sessions: Sequence[int], *, threads: int, dtype: str, cached: int, turns: int
) -> list[Together]:
    """Time passes with so many sessions, each without a draft and with one of four tokens.

    Args:
        cached: tokens of each session's prompt.
        turns: passes of each kind.

    Raises:
        UsageError: so many tokens do not fit into the model's context, or into the memory that the cache may take.
    """
    from foredraft_cloud.decoder import load_target
    from foredraft_cloud.engine import Engine, EngineOptions

    most = max(sessions)
    kinds = [(count, drafted) for drafted in (0, 4) for count in sorted({1, *sessions})]
    written = 5 * len(kinds) * (turns + _WARM) + 1  # if every draft stood
    check_room(cached, written, model.config.context)
    target = load_target(model, dtype=dtype, threads=threads, context=cached + written, slots=most)
    check_room(cached, written, target.context)
    said: list[CloudMessage] = []

    def send(peer: Hashable, message: CloudMessage) -> None:
        said.append(message)

    engine = Engine(target, send, EngineOptions(max_sessions=most, gather_us=0, max_rows=8 * most + 128))
    vocabulary = model.config.vocabulary
    ledgers = [
        Ledger(number.to_bytes(16, "big"), [(number + token) % vocabulary for token in range(1, cached + 1)])
        for number in range(1, most + 1)
    ]
    for ledger in ledgers:
        engine.receive("device", Open(ledger.session, tuple(ledger.tokens), max_tokens=written, hints=False))
    while engine.step():
        pass
    wall: dict[tuple[int, int], list[float]] = {kind: [] for kind in kinds}
    processor: dict[tuple[int, int], list[float]] = {kind: [] for kind in kinds}
    outside: dict[tuple[int, int], list[float]] = {kind: [] for kind in kinds}
    statistics = engine.statistics
    for _ in range(turns + _WARM):
        for kind in kinds:
            count, drafted = kind
            for ledger in ledgers[:count]:
                # Tokens that nobody would draft: what is accepted of them does not matter, the rows are computed.
                engine.receive("device", ledger.propose([17, 29, 31, 37][:drafted]))
            before = (statistics.outside_us, statistics.model_us)
            began, began_cpu = time.perf_counter(), time.process_time()
            assert engine.step()
            wall[kind].append(time.perf_counter() - began)
            processor[kind].append(time.process_time() - began_cpu)
            outside_us, model_us = statistics.outside_us - before[0], statistics.model_us - before[1]
            outside[kind].append(outside_us / (outside_us + model_us))
            for message in said:
                assert isinstance(message, Verdict)
                ledgers[int.from_bytes(message.session, "big") - 1].commit(message)
            said.clear()
    least = {kind: min(processor[kind][_WARM:]) for kind in kinds}
    return [
        Together(
            count,
            drafted,
            median(wall[count, drafted][_WARM:]) * 1e3,
            least[count, drafted] * 1e3,
            least[count, drafted] / least[1, drafted],
            count * least[1, drafted] / least[count, drafted],
            median(outside[count, drafted][_WARM:]),
        )
        for count, drafted in kinds
    ]
