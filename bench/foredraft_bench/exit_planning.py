"""Where exits pay: the simulator of :mod:`.simulate` with one exit at a time, then with the best two.

A hint after a share ``e`` of the pass comes ``(1 - e) * verify`` before the verdict; what it can save is the drafting that a
wrong guess would have wasted in that time. It costs the head's share of every pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foredraft_cloud.options import EngineOptions
from foredraft_shared.models.artifacts import Artifact
from foredraft_shared.transports.relay import LinkSettings

from .simulate import simulate
from .virtual_models import Exit, Times

__all__ = ["ASSUMED", "Advice", "advise", "measured_accuracy"]

Sure = tuple[float, float]
"""How often a hint that is sent is right, and the share of the rounds in which one is."""

ASSUMED: Mapping[float, Sure] = {0.0: (0.9, 0.0), 0.5: (0.93, 0.20), 2 / 3: (0.96, 0.33), 1.0: (1.0, 1.0)}
"""By share of the depth: first measurements for SmolLM2-135M, heads of 0.7 M parameters, confidence from 0.7."""

HEAD_COST = 0.05
"""Of a pass, each head."""
_TEXTS = 4
_LEAST_GAIN = 0.01


@dataclass(frozen=True, slots=True)
class AdviceRow:
    layer: int | None
    """``None``: without exits."""
    accuracy: float
    coverage: float
    ms_per_token: float
    gain: float
    """Share of the time without exits that is saved."""


@dataclass(frozen=True, slots=True)
class Advice:
    rows: tuple[AdviceRow, ...]
    best: tuple[int, ...]
    """Layers that are worth it, together; empty if none is."""


def measured_accuracy(artifact: Artifact, depth: int) -> dict[float, Sure]:
    """The same of an artifact, on held-out rounds, for hints of the least confidence that is sent."""
    found: dict[float, Sure] = {0.0: (0.5, 0.0)}
    for layer, fact in sorted(artifact.facts["exits"].items(), key=lambda item: int(item[0])):
        hints = fact["hints"]
        sent = hints["at"].index(EngineOptions().hint_confidence)
        found[int(layer) / depth] = (hints["precision"][sent] or 0.0, hints["coverage"][sent])
    return found | {1.0: (1.0, 1.0)}


def advise(
    depth: int,
    draft_ms: float,
    verify_ms: float,
    rtt_ms: float,
    acceptance: float,
    accuracy: Mapping[float, Sure] = ASSUMED,
) -> Advice:
    """Try exits at every sixth of the depth.

    Args:
        depth: layers of the target.
        accuracy: by share of the depth; between these it is interpolated.
    """
    layers = sorted({round(depth * sixth / 6) for sixth in range(1, 6)} - {0, depth})

    def cost(*chosen: int) -> float:
        exits = tuple(Exit(layer / depth, *_between(accuracy, layer / depth)) for layer in chosen)
        times = Times(draft_ms, verify_ms * (1 + HEAD_COST * len(chosen)), exits=exits)
        runs = [
            simulate(link=LinkSettings(rtt_ms=rtt_ms), times=times, acceptance=acceptance, seed=seed)
            for seed in range(_TEXTS)
        ]
        return sum(run.ms_per_token for run in runs) / len(runs)

    without = cost()
    rows = [AdviceRow(None, 0.0, 0.0, without, 0.0)]
    for layer in layers:
        with_it = cost(layer)
        rows.append(AdviceRow(layer, *_between(accuracy, layer / depth), with_it, 1 - with_it / without))
    single = max(rows, key=lambda row: row.gain)
    if single.layer is None or single.gain < _LEAST_GAIN:
        return Advice(tuple(rows), ())
    best: tuple[int, ...] = (single.layer,)
    least = single.ms_per_token
    for layer in layers:
        if layer != single.layer and (both := cost(*sorted((single.layer, layer)))) < least * (1 - _LEAST_GAIN):
            best, least = tuple(sorted((single.layer, layer))), both
    return Advice(tuple(rows), best)


def _between(points: Mapping[float, Sure], at: float) -> Sure:
    low, high = max(point for point in points if point <= at), min(point for point in points if point >= at)
    share = 0.0 if high == low else (at - low) / (high - low)
    accuracy, coverage = (first + (last - first) * share for first, last in zip(points[low], points[high], strict=True))
    return accuracy, coverage
