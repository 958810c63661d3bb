"""What the network was like while a text was written, from the text's trace."""

from __future__ import annotations

from .reader import Trace

__all__ = ["network_of"]


def network_of(trace: Trace) -> list[tuple[float, float]]:
    """``(time_s, delay_ms)``: when a round was sent, and half of its round trip without the server's own time.

    Only rounds whose verdict was waited for tell it: a token of a stream has no sending of its own, a chained round also
    waits for the one before it, and in a session's first round the server reads the prompt. A round whose message was lost
    and repeated seems to have a long way, as it had for the program.
    """
    rows: list[tuple[float, float]] = []
    seen: set[str] = set()
    for record in trace.rounds:
        first = record.session not in seen
        seen.add(record.session)
        if first or record.chained or record.sent_at_us is None or record.verdict_at_us is None:
            continue
        away_us = record.verdict_at_us - record.sent_at_us
        travelling_us = away_us - (record.cloud_queued_us or 0) - (record.cloud_computed_us or 0)
        rows.append((record.sent_at_us / 1e6, max(0, travelling_us) / 2e3))
    rows.sort()
    return [row for index, row in enumerate(rows) if not index or row[0] > rows[index - 1][0]]
