"""A trace as the Chrome trace format, for Perfetto (ui.perfetto.dev) or chrome://tracing.

Each session is a process whose threads are its lanes: *edge* (drafting, committing), *link* (the way up, the way down) and
*cloud* (queue, computation). Hints are instants on the edge's lane, and an arrow leads from each draft to its verdict. The
format is the Chromium project's "Trace Event Format"; only its events ``X``, ``i``, ``s``, ``f`` and ``M`` are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .reader import Trace
from .timeline import flights

__all__ = ["chrome_trace"]

# Rounds may be chained, so two flights of one session can overlap. Spans of one thread must nest, and a viewer would draw
# one round inside the other: such a flight goes to a lane beside.
_EDGE, _UP, _CLOUD, _DOWN = 1, 2, 4, 6
_LANES = {
    _EDGE: "edge",
    _UP: "link up",
    _UP + 1: "link up, chained",
    _CLOUD: "cloud",
    _CLOUD + 1: "cloud, chained",
    _DOWN: "link down",
    _DOWN + 1: "link down, chained",
}


def chrome_trace(trace: Trace) -> dict[str, Any]:
    """The trace as an object to write with :func:`json.dump`; instants and durations in microseconds."""
    sessions: dict[str, int] = {}
    for record in trace.rounds:
        sessions.setdefault(record.session, len(sessions) + 1)
    events = list(_events(trace, sessions))
    used = {(event["pid"], event["tid"]) for event in events}
    names = [
        {"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": f"session {session[:8]}"}}
        for session, process in sessions.items()
    ]
    for process, lane in sorted(used):
        name = {"ph": "M", "pid": process, "tid": lane}
        names.append({**name, "name": "thread_name", "args": {"name": _LANES[lane]}})
        names.append({**name, "name": "thread_sort_index", "args": {"sort_index": lane}})
    events.sort(key=lambda event: (event["ts"], -event.get("dur", 0)))
    return {
        "traceEvents": names + events,
        "displayTimeUnit": "ms",
        "otherData": {"foredraft": trace.header.foredraft, **trace.header.labels},
    }


def _events(trace: Trace, sessions: dict[str, int]) -> Iterator[dict[str, Any]]:
    busy_until: dict[tuple[int, int], int] = {}

    def span(process: int, lane: int, name: str, begin: int, end: int, **arguments: Any) -> dict[str, Any]:
        if lane != _EDGE and begin < busy_until.get((process, lane), begin):
            lane += 1
        busy_until[process, lane] = max(end, busy_until.get((process, lane), end))
        event = {"ph": "X", "name": name, "cat": _LANES[lane], "pid": process, "tid": lane}
        return {**event, "ts": begin, "dur": max(0, end - begin), "args": arguments}

    def instant(process: int, name: str, at: int, **arguments: Any) -> dict[str, Any]:
        event = {"ph": "i", "s": "t", "name": name, "cat": "edge", "pid": process, "tid": _EDGE}
        return {**event, "ts": at, "args": arguments}

    for number, (record, flight) in enumerate(flights(trace.rounds)):
        process = sessions[record.session]
        title = f"round {record.round}"
        if record.draft_began_at_us is not None and record.draft_ended_at_us is not None:
            yield span(
                process,
                _EDGE,
                f"draft {record.drafted} · {title}",
                record.draft_began_at_us,
                record.draft_ended_at_us,
                drafted=record.drafted,
                ready=record.ready,
                discarded=record.discarded,
                guess_hit=record.guess_hit,
                decision=record.decision,
                reason=record.reason,
                base=record.base,
            )
        for hint in record.hints:
            agrees = (hint.accepted, hint.token) == (record.accepted, record.token)
            yield instant(
                process,
                f"hint {'right' if agrees else 'wrong'} · {title}",
                hint.at_us,
                exit_layer=hint.exit_layer,
                accepted=hint.accepted,
                token=hint.token,
                confidence=hint.confidence,
                restarted=record.restarted_on_hint,
            )
        if flight is not None:
            outcome = {"accepted": record.accepted, "drafted": record.drafted, "token": record.token}
            if record.sent_at_us is not None:
                yield span(process, _UP, f"up · {title}", flight.sent_at_us, flight.queued_at_us, bytes=record.bytes_up)
                arrow = {"cat": "flight", "name": title, "id": number, "pid": process, "tid": _EDGE}
                yield {**arrow, "ph": "s", "ts": flight.sent_at_us}
                yield {**arrow, "ph": "f", "bp": "e", "ts": flight.verdict_at_us}
            if flight.computing_at_us > flight.queued_at_us:
                yield span(process, _CLOUD, f"queue · {title}", flight.queued_at_us, flight.computing_at_us)
            yield span(process, _CLOUD, f"compute · {title}", flight.computing_at_us, flight.answered_at_us, **outcome)
            yield span(
                process,
                _DOWN,
                f"down · {title}",
                flight.answered_at_us,
                flight.verdict_at_us,
                bytes=record.bytes_down,
            )
        if record.committed_at_us is not None:
            yield instant(process, f"commit {record.committed} · {title}", record.committed_at_us, base=record.base)
