"""What the samples of one mode in one cell come to: every figure's definition stands in its docstring.

``None`` is always: there was nothing to measure it by.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from ..metrics import percentile
from .fluidity import fluid_tokens_per_s, fluidity_index
from .limit import NO_PARTS, Parts
from .reliability import Bin, HintSeen, expected_calibration_error, precision, reliability
from .samples import Decision, Sample

__all__ = ["Exit", "Figures", "Spread", "add_up", "speed_up"]


@dataclass(frozen=True, slots=True)
class Spread:
    """One value a run, in three numbers."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Exit:
    """What the hints of one exit were worth."""

    layer: int
    hints: int
    precision: float
    """Share whose verdict said the same."""
    calibration_error: float
    """See :func:`~.reliability.expected_calibration_error`."""
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """One mode in one cell."""

    answers: int
    tokens: int
    """All answers together."""
    ms_per_token: Spread | None
    """One value a run: (last token's instant - first token's) summed over the run's answers, prompts and devices alike,
    / tokens after the first. The time to the first token is told apart."""
    ttft_ms: Spread | None
    """Time to first token: from handing over the prompt to its first token. One value a run, the mean of its answers."""
    gap_p50_ms: float | None
    gap_p95_ms: float | None
    gap_p99_ms: float | None
    gap_max_ms: float | None
    """Time between a token and the one before it, of all answers, the zeros within a commit included."""
    commit_gap_p50_ms: float | None
    commit_gap_p95_ms: float | None
    """The same without the zeros: how long a reader waits when he has to wait."""
    fluidity_index: float | None
    """Share of deadlines met at 100 ms for the first token and 50 ms for each other; mean over the answers. See
    :mod:`.fluidity`."""
    fluid_tokens_per_s: float | None
    """See :func:`~.fluidity.fluid_tokens_per_s`."""
    drafted_per_round: float | None
    accepted_per_round: float | None
    """Confirmed drafted tokens / verdicts on drafts; each such round commits one token more, the target's own."""
    accepted_by_position: tuple[tuple[int, int], ...]
    """By place in the draft: (judged, accepted). Judged: all before it were accepted, and the text did not end there."""
    hidden_drafting: float | None
    """Share of the time spent drafting that lay within another round's flight, and so cost nothing."""
    guess_hit_rate: float | None
    """Share of the verdicts, of those for which something was drafted meanwhile, that the device had foreseen."""
    cloud_passes_per_token: float | None
    """Forward passes of the target that gave tokens; those that only read the prompt do not count. The cloud alone
    takes 1."""
    cloud_ms_per_token: float | None
    """What the server says its passes took, for this text, / tokens: the cost. A pass that served several devices is
    counted for each."""
    bytes_up_per_token: float | None
    bytes_down_per_token: float | None
    """See :attr:`foredraft_bench.metrics.Answer.bytes_down`."""
    joules_per_token: float | None
    """What the device's power meter counted / tokens."""
    exits: tuple[Exit, ...]
    limit: Parts | None
    """The parts of a token's time, means over all answers that can be divided: see :mod:`.limit`. Their sum is these
    answers' ms a token, runs pooled."""
    speculated: float | None
    """Share of the tokens that came from rounds with drafts."""
    decisions: tuple[Decision, ...]
    """What the planner decided in the last answer, and why."""


def add_up(samples: Sequence[Sample]) -> Figures:
    """The figures of one mode in one cell."""
    tokens = sum(len(sample.tokens) for sample in samples)
    gaps = [gap for sample in samples for gap in sample.gaps_ms]
    pauses = [gap for gap in gaps if gap > 0]
    rounds = sum(sample.draft_rounds for sample in samples)
    drafting_ms = sum(sample.drafting_ms for sample in samples)
    joules = [sample.joules for sample in samples if sample.joules is not None]
    fluidity = [
        fluidity_index(sample.gaps_ms, first_ms=sample.arrived_ms[0]) for sample in samples if sample.arrived_ms
    ]
    return Figures(
        answers=len(samples),
        tokens=tokens,
        ms_per_token=_spread(_pace(run) for run in _runs(samples)),
        ttft_ms=_spread(_first(run) for run in _runs(samples)),
        gap_p50_ms=percentile(gaps, 0.5),
        gap_p95_ms=percentile(gaps, 0.95),
        gap_p99_ms=percentile(gaps, 0.99),
        gap_max_ms=percentile(gaps, 1.0),
        commit_gap_p50_ms=percentile(pauses, 0.5),
        commit_gap_p95_ms=percentile(pauses, 0.95),
        fluidity_index=_share(sum(fluidity), len(fluidity)),
        fluid_tokens_per_s=fluid_tokens_per_s(sample.gaps_ms for sample in samples),
        drafted_per_round=_share(sum(sample.drafted for sample in samples), rounds),
        accepted_per_round=_share(sum(sample.accepted for sample in samples), rounds),
        accepted_by_position=_by_position(samples),
        hidden_drafting=_share(sum(sample.hidden_drafting_ms for sample in samples), drafting_ms),
        guess_hit_rate=_share(sum(sample.guess_hits for sample in samples), sum(sample.guesses for sample in samples)),
        cloud_passes_per_token=_share(sum(sample.cloud_passes for sample in samples), tokens),
        cloud_ms_per_token=_share(sum(sample.cloud_computed_ms for sample in samples), tokens),
        bytes_up_per_token=_share(sum(sample.bytes_up for sample in samples), tokens),
        bytes_down_per_token=_share(sum(sample.bytes_down for sample in samples), tokens),
        joules_per_token=_share(sum(joules), tokens) if joules and len(joules) == len(samples) else None,
        exits=_exits([hint for sample in samples for hint in sample.hints]),
        limit=_limit(samples),
        speculated=_share(sum(sample.speculated for sample in samples), tokens),
        decisions=samples[-1].decisions if samples else (),
    )


def speed_up(samples: Sequence[Sample], baseline: Sequence[Sample]) -> Spread | None:
    """How many times faster than ``baseline``, by ms a token. One value a run, against the baseline of the same run: what
    disturbs the machine for a while disturbs both. Of texts that only one of them wrote nothing is taken."""
    theirs = {sample.text: sample for sample in baseline}
    ratios = []
    for run in _runs([sample for sample in samples if sample.text in theirs]):
        own, other = _pace(run), _pace([theirs[sample.text] for sample in run])
        ratios.append(other / own if own and other else None)
    return _spread(ratios)


def _runs(samples: Sequence[Sample]) -> list[list[Sample]]:
    by_run: dict[int, list[Sample]] = {}
    for sample in samples:
        by_run.setdefault(sample.run, []).append(sample)
    return list(by_run.values())


def _pace(samples: Sequence[Sample]) -> float | None:
    gaps = [gap for sample in samples for gap in sample.gaps_ms]
    return _share(sum(gaps), len(gaps))


def _first(samples: Sequence[Sample]) -> float | None:
    firsts = [sample.arrived_ms[0] for sample in samples if sample.arrived_ms]
    return _share(sum(firsts), len(firsts))


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(median(known), min(known), max(known)) if known else None


def _share(amount: float, count: float) -> float | None:
    return amount / count if count else None


def _by_position(samples: Sequence[Sample]) -> tuple[tuple[int, int], ...]:
    longest = max((len(sample.tried_at) for sample in samples), default=0)
    return tuple(
        (
            sum(sample.tried_at[place] for sample in samples if place < len(sample.tried_at)),
            sum(sample.accepted_at[place] for sample in samples if place < len(sample.accepted_at)),
        )
        for place in range(longest)
    )


def _exits(hints: Sequence[HintSeen]) -> tuple[Exit, ...]:
    found = []
    for layer in sorted({hint.exit_layer for hint in hints}):
        own = [hint for hint in hints if hint.exit_layer == layer]
        bins = reliability(own)
        found.append(Exit(layer, len(own), precision(own) or 0.0, expected_calibration_error(bins) or 0.0, tuple(bins)))
    return tuple(found)


def _limit(samples: Sequence[Sample]) -> Parts | None:
    divided = [sample for sample in samples if sample.parts is not None]
    gaps = sum(len(sample.gaps_ms) for sample in divided)
    if not gaps:
        return None
    total = NO_PARTS
    for sample in divided:
        assert sample.parts is not None
        total += sample.parts
    return total.per(gaps)
