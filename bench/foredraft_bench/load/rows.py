"""One number of sessions, measured: what devices saw, and what the server says of the same seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from foredraft_shared.errors import ForedraftError

from ..metrics import percentile
from .device import Device, Habits, KnownText, Seen
from .driving import Drive
from .exchange import Exchange
from .pattern import Pattern, independent

__all__ = ["Row", "WrongText", "learn", "markdown", "measure"]

LONGER = 4.0
"""So many times as long as it was asked for a measurement takes at most."""


class WrongText(ForedraftError):
    """A text under load is not the target's own."""

    code = "wrong_text"


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement; ``None``: there was nothing to measure it by."""

    mode: str
    sessions: int
    seconds: float
    """Measured, after the warm-up."""
    tokens: int
    """Committed in them, as devices saw it."""
    tokens_per_second: float
    round_p50_ms: float | None
    round_p95_ms: float | None
    """From a draft's sending to its verdict; in mode ``cloud`` from verdict to verdict."""
    first_token_p50_ms: float | None
    """From Open to the first verdict."""
    accepted_per_round: float | None
    passes: int
    rows_per_pass: float | None
    sessions_per_pass: float | None
    pass_ms: float | None
    """Mean of all of a step."""
    outside_share: float | None
    """Time of passes outside the target, of all of it."""
    queue_ms: float | None
    """Mean waiting of a round for its pass, as the server saw it."""
    compute_s_per_token: float | None
    """Time in the target for each committed token."""
    busy_share: float
    """Time in passes, of all time: near 1 the server is the limit."""
    chained: int
    """Drafts that came before the text they build on was committed."""
    chained_hits: int
    """Of these, drafts whose assumption came true."""
    rows: int
    rows_dropped: int
    """At exits, of ``rows``."""
    rounds: int
    """With drafted tokens, judged."""
    dropped_wrongly: int
    """Of these, rounds that needed a second pass, since a dropped row would have counted."""
    texts: int
    """Written to their end and found right, or not known."""
    resumes: int
    refusals: int


def learn(exchange: Exchange, texts: Sequence[KnownText], *, alone: bool = False) -> None:
    """Have the target write each text by itself, and remember it.

    Args:
        alone: one at a time; else side by side, which by the one law comes to the same, and is quicker.

    Raises:
        WrongText: a text was known already, and is another now.
    """
    for group in [[text] for text in texts] if alone else [list(texts)]:
        now = time.perf_counter()
        devices = [
            Device(number, [text], Habits("cloud"), independent(1.0), start_at=now, count=1, keep=True)
            for number, text in enumerate(group)
        ]
        Drive(exchange, devices).until_done()
        for device in devices:
            ((text, written),) = device.seen.written
            if text.truth and text.truth != written:
                raise WrongText("a text written alone is not what it was in company; please report it.")
            text.truth = written


def measure(
    exchange: Exchange,
    texts: Sequence[KnownText],
    sessions: int,
    habits: Habits,
    pattern: Pattern,
    *,
    seconds: float,
    warm_up_s: float,
    rtt_s: float = 0.0,
) -> Row:
    """Let ``sessions`` devices write for a while.

    Args:
        seconds: measured at least; up to :data:`LONGER` times that, until as many texts are finished as there are
            sessions: beginnings and ends are to be in it as they are in the long run.
        warm_up_s: in which they begin, one after another, and nothing is counted; longer by as much, until each of them
            has its first token.

    Raises:
        WrongText: the target wrote a token that is not in the known text.
    """
    now = time.perf_counter()
    devices = [
        Device(number, texts, habits, pattern, start_at=now + warm_up_s / 2 * number / sessions)
        for number in range(sessions)
    ]
    drive = Drive(exchange, devices, rtt_s=rtt_s)
    drive.until(now + warm_up_s)
    _go_on(drive, lambda: all(device.seen.commits for device in devices), now + LONGER * warm_up_s)
    before, began = exchange.figures(), time.perf_counter()
    written = sum(device.seen.texts for device in devices)
    drive.until(began + seconds)
    _go_on(
        drive,
        lambda: sum(device.seen.texts for device in devices) >= written + sessions,
        began + LONGER * seconds,
    )
    ended, after = time.perf_counter(), exchange.figures()
    drive.leave()
    wrong = sum(device.seen.wrong for device in devices)
    if wrong:
        raise WrongText(f"{wrong} texts of {sessions} sessions are not the target's own; please report it.")
    return _row(habits, [device.seen for device in devices], began, ended, before, after)


def _go_on(drive: Drive, enough: Callable[[], bool], latest: float) -> None:
    while not enough() and (now := time.perf_counter()) < latest:
        drive.until(min(latest, now + 0.1))


def _row(
    habits: Habits,
    seen: Sequence[Seen],
    began: float,
    ended: float,
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> Row:
    def within(pairs: list[tuple[float, float]]) -> list[float]:
        return [value * 1000.0 for at, value in pairs if began <= at <= ended]

    def gained(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    rounds = [value for each in seen for value in within(each.rounds)]
    firsts = [value for each in seen for value in within(each.first_tokens)]
    tokens = sum(count for each in seen for at, count in each.commits if began <= at <= ended)
    seconds, passes = ended - began, gained("pass_seconds_count")
    drafts = gained("spec_decode_num_drafts_total")
    spent_s, queued = gained("pass_seconds_sum"), gained("round_queue_seconds_count")
    generated = gained("generation_tokens_total")
    return Row(
        mode=habits.mode,
        sessions=len(seen),
        seconds=seconds,
        tokens=tokens,
        tokens_per_second=tokens / seconds,
        round_p50_ms=percentile(rounds, 0.50),
        round_p95_ms=percentile(rounds, 0.95),
        first_token_p50_ms=percentile(firsts, 0.50),
        accepted_per_round=_ratio(gained("spec_decode_num_accepted_tokens_total"), drafts),
        passes=round(passes),
        rows_per_pass=_ratio(gained("pass_rows_sum"), passes),
        sessions_per_pass=_ratio(gained("pass_sessions_sum"), passes),
        pass_ms=_ratio(spent_s * 1000.0, passes),
        outside_share=_ratio(gained("outside_model_seconds_total"), spent_s),
        queue_ms=_ratio(gained("round_queue_seconds_sum") * 1000.0, queued),
        compute_s_per_token=_ratio(gained("model_seconds_total"), generated),
        busy_share=spent_s / seconds,
        chained=round(gained("chained_rounds_received_total")),
        chained_hits=round(gained("chained_rounds_hit_total")),
        rows=round(gained("pass_rows_sum")),
        rows_dropped=round(gained("rows_dropped_total")),
        rounds=round(drafts),
        dropped_wrongly=round(gained("rounds_passed_twice_total")),
        texts=sum(each.texts for each in seen),
        resumes=sum(each.resumes for each in seen),
        refusals=sum(each.refusals for each in seen),
    )


def _ratio(amount: float, count: float) -> float | None:
    return amount / count if count else None


_COLUMNS = (
    ("mode", lambda row, first: row.mode),
    ("sessions", lambda row, first: str(row.sessions)),
    ("tokens/s", lambda row, first: _number(row.tokens_per_second, 1)),
    ("of 1", lambda row, first: _times(row.tokens_per_second, first.tokens_per_second)),
    ("round p50 ms", lambda row, first: _number(row.round_p50_ms, 0)),
    ("p95 ms", lambda row, first: _number(row.round_p95_ms, 0)),
    ("of 1", lambda row, first: _times(row.round_p95_ms, first.round_p95_ms)),
    ("first token ms", lambda row, first: _number(row.first_token_p50_ms, 0)),
    ("accepted/round", lambda row, first: _number(row.accepted_per_round, 2)),
    ("rows/pass", lambda row, first: _number(row.rows_per_pass, 1)),
    ("pass ms", lambda row, first: _number(row.pass_ms, 1)),
    ("outside model", lambda row, first: _number(row.outside_share, 1, 100, " %")),
    ("queue ms", lambda row, first: _number(row.queue_ms, 0)),
    ("compute ms/token", lambda row, first: _number(row.compute_s_per_token, 1, 1000)),
)  # fmt: skip


def markdown(rows: Sequence[Row]) -> list[str]:
    """A table, a line each; *of 1* compares with the first row of the same mode."""
    lines = [
        "| " + " | ".join(heading for heading, _ in _COLUMNS) + " |",
        "|" + "---|" * len(_COLUMNS),
    ]
    for row in rows:
        first = next(each for each in rows if each.mode == row.mode)
        lines.append("| " + " | ".join(say(row, first) for _, say in _COLUMNS) + " |")
    return lines


def _number(value: float | None, digits: int, factor: float = 1.0, unit: str = "") -> str:
    return "–" if value is None else f"{value * factor:.{digits}f}{unit}"


def _times(value: float | None, of: float | None) -> str:
    return "–" if value is None or not of else f"{value / of:.2f}×"
