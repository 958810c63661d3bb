"""What is measured of an answer, and how it is added up: every figure's definition stands in its docstring.

Times are those of the caller: the instant at which a token was handed to whoever iterates over the stream. All tokens of
one commit carry the instant of its first, since they become final together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from foredraft_shared.traces import RoundRecord

__all__ = ["Answer", "Figures", "Stopwatch", "add_up", "parting", "percentile"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to one prompt in one mode."""

    tokens: tuple[int, ...]
    """Without the prompt; the stop token included."""
    arrived_ms: tuple[float, ...]
    """One a token, never falling: since the prompt was handed over as token ids."""
    text: str = ""
    finish: str = ""
    """``"stop"`` or ``"length"``."""
    accepted: int = 0
    """Drafted tokens that the target confirmed."""
    draft_rounds: int = 0
    """Verdicts on drafts; empty drafts count, tokens the cloud streamed do not."""
    cloud_passes: int = 0
    """Forward passes of the target that gave tokens; those which only read the prompt do not count."""
    bytes_up: int = 0
    bytes_down: int = 0
    """From opening the session, the prompt included, to closing it; ZeroMQ's frame headers included, its heartbeats and
    the headers of TCP and IP not."""
    records: tuple[RoundRecord, ...] = ()
    """What each round took, in the order they were over; empty where a mode has no rounds."""
    began_us: int = 0
    """When the prompt was handed over, on the clock of :attr:`records`."""

    def __post_init__(self) -> None:
        assert len(self.tokens) == len(self.arrived_ms)

    @property
    def gaps_ms(self) -> list[float]:
        """Between each token and the one before it: 0 for tokens of one commit."""
        return [after - before for before, after in zip(self.arrived_ms, self.arrived_ms[1:], strict=False)]

    @property
    def ms_per_token(self) -> float | None:
        """See :attr:`Figures.ms_per_token`."""
        return _ratio(sum(self.gaps_ms), len(self.gaps_ms))


@dataclass(frozen=True, slots=True)
class Figures:
    """Several answers of one mode, added up. ``None``: there was nothing to measure it by."""

    ms_per_token: float | None
    """(instant of the last token - instant of the first) / (tokens - 1), both sums over all answers: how fast text flows
    once it flows. The time to the first token is told apart."""
    ttft_ms: float | None
    """Time to first token: from handing over the prompt to its first token, mean over the answers."""
    p50_gap_ms: float | None
    p95_gap_ms: float | None
    p99_gap_ms: float | None
    max_gap_ms: float | None
    """Of the gaps of all answers, zeros included: see :attr:`Answer.gaps_ms` and :func:`percentile`."""
    accepted_per_round: float
    """Confirmed drafted tokens / verdicts on drafts; each such round commits one token more, the target's own. 0 where
    nothing was drafted."""
    bytes_per_token: float | None
    """Both ways: see :attr:`Answer.bytes_down`."""
    bytes_up_per_token: float | None
    bytes_down_per_token: float | None
    cloud_passes_per_token: float | None
    """See :attr:`Answer.cloud_passes`; the cloud alone takes one."""
    committed: int
    """Tokens, all answers together."""


def add_up(answers: Sequence[Answer]) -> Figures:
    """The figures of one mode."""
    gaps = sorted(gap for answer in answers for gap in answer.gaps_ms)
    firsts = [answer.arrived_ms[0] for answer in answers if answer.tokens]
    tokens = sum(len(answer.tokens) for answer in answers)
    up, down = sum(answer.bytes_up for answer in answers), sum(answer.bytes_down for answer in answers)
    rounds = sum(answer.draft_rounds for answer in answers)
    return Figures(
        ms_per_token=_ratio(sum(gaps), len(gaps)),
        ttft_ms=_ratio(sum(firsts), len(firsts)),
        p50_gap_ms=percentile(gaps, 0.50),
        p95_gap_ms=percentile(gaps, 0.95),
        p99_gap_ms=percentile(gaps, 0.99),
        max_gap_ms=percentile(gaps, 1.0),
        accepted_per_round=_ratio(sum(answer.accepted for answer in answers), rounds) or 0.0,
        bytes_per_token=_ratio(up + down, tokens),
        bytes_up_per_token=_ratio(up, tokens),
        bytes_down_per_token=_ratio(down, tokens),
        cloud_passes_per_token=_ratio(sum(answer.cloud_passes for answer in answers), tokens),
        committed=tokens,
    )


def percentile(values: Iterable[float], share: float) -> float | None:
    """The value below which ``share`` (0 to 1) of ``values`` lies, linear between neighbours, as numpy's default."""
    ordered = sorted(values)
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def parting(one: Sequence[int], other: Sequence[int]) -> int:
    """The first position at which two texts are not the same, the end of a shorter one included; the length of equal ones."""
    length = min(len(one), len(other))
    return next((position for position in range(length) if one[position] != other[position]), length)


class Stopwatch:
    """Gives each token the instant at which its commit reached the caller.

    :meth:`committed` is told how large a commit is before its tokens come; :meth:`token` is then called once a token.
    """

    def __init__(self) -> None:
        self.arrived_ms: list[float] = []
        self._due = 0
        """Tokens of the commits told of that are still to come."""
        self._commits: list[int] = []

    def committed(self, tokens: int) -> None:
        """A commit of so many tokens is about to be handed out."""
        if tokens:
            self._commits.append(tokens)

    def token(self, now_ms: float) -> float:
        """A token is there; returns its instant: ``now_ms`` for the first of a commit, that of the first for the rest."""
        if self._due == 0:
            self._due = self._commits.pop(0) if self._commits else 1
            instant = now_ms
        else:
            instant = self.arrived_ms[-1]
        self._due -= 1
        self.arrived_ms.append(instant)
        return instant


def _ratio(amount: float, count: int) -> float | None:
    return amount / count if count else None
