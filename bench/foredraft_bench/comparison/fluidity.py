"""Whether text flows: Etalon's fluidity index and fluid token generation rate (arXiv:2407.07000).

Each token has a deadline, a fixed time after the one before it. A token that comes early banks the time that was left, and
the next may use it: so a burst of four tokens pays for the pause before it, as it does for a reader. A token that comes
too late misses as many deadlines as would have fitted into its lateness, and the account begins anew at 0.

The definitions, the counting of a long pause as several misses and the resolution of the search are those of the
authors' program (project-etalon/etalon, ``metrics/metric_utils.py``), in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..metrics import percentile

__all__ = ["FIRST_TOKEN_MS", "TOKEN_MS", "fluid_token_ms", "fluid_tokens_per_s", "fluidity_index"]

FIRST_TOKEN_MS = 100.0
TOKEN_MS = 50.0
"""Etalon's own defaults for the first token and for each later one: 20 tokens a second."""

_MISSES = 0.1
"""Share of deadlines a text may miss and still be fluid."""
_TEXTS = 0.99
"""Quantile over the texts: nearly all are to be fluid."""
_RESOLUTION_MS = 0.1


def fluidity_index(
    gaps_ms: Sequence[float], token_ms: float = TOKEN_MS, *, first_ms: float | None = None,
    first_token_ms: float = FIRST_TOKEN_MS,
) -> float:  # fmt: skip
    """Share of the deadlines that were met, 0 to 1; 1 where there was none.

    Args:
        gaps_ms: before each token but the first, 0 within a commit.
        token_ms: allowed for each of them.
        first_ms: time to the first token; ``None`` leaves it out.
        first_token_ms: allowed for that.
    """
    met = missed = 0
    slack_ms = 0.0
    allowed = [(gap, token_ms) for gap in gaps_ms]
    if first_ms is not None:
        allowed.insert(0, (first_ms, first_token_ms))
    for index, (taken_ms, allowed_ms) in enumerate(allowed):
        if taken_ms <= allowed_ms + slack_ms:
            slack_ms += allowed_ms - taken_ms
            met += 1
            continue
        if index == 0 and first_ms is not None:
            missed += 1 + math.floor((taken_ms - slack_ms - allowed_ms) / token_ms)
        else:
            missed += math.floor((taken_ms - slack_ms) / token_ms)
        slack_ms = 0.0
    return met / (met + missed) if met + missed else 1.0


def fluid_token_ms(gaps_ms: Sequence[float]) -> float | None:
    """The shortest deadline a token at which the text misses no more than a tenth of them, to 0.1 ms; ``None`` for a text
    without gaps. The time to the first token is left out, as in Etalon."""
    if not gaps_ms:
        return None
    low, high = 0.0, max(gaps_ms)  # with the longest gap as deadline nothing is missed
    while high - low > _RESOLUTION_MS:
        middle = (low + high) / 2.0
        if 1.0 - fluidity_index(gaps_ms, middle) > _MISSES:
            low = middle
        else:
            high = middle
    return high


def fluid_tokens_per_s(texts: Iterable[Sequence[float]]) -> float | None:
    """Fluid token generation rate: the fastest pace at which 99 % of the texts miss no more than a tenth of their deadlines.

    Args:
        texts: the gaps of each, in milliseconds.
    """
    shortest = [deadline for gaps in texts if (deadline := fluid_token_ms(gaps)) is not None]
    slowest = percentile(shortest, _TEXTS)
    return 1000.0 / slowest if slowest else None
