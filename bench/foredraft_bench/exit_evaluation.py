"""How well a target's exits foresee its verdicts, in the rounds of a real drafter.

Every text that the target has written is written again in rounds: the drafter drafts after the true text, one pass verifies
the draft, each exit says what it expects, and full depth says what it is, as in the server's engine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from foredraft_cloud.decoder import DecoderPass, DecoderTarget
from foredraft_cloud.foresight import Trust
from foredraft_cloud.target import Logits, Run
from foredraft_cloud.training.verdicts import Hinted, quality
from foredraft_edge.drafters import Drafter, follow
from foredraft_shared.messages import SamplingParams, TokenId

__all__ = ["COVERED", "ExitsJudged", "evaluate_exits", "head_costs"]

COVERED = 0.35
"""Share of the rounds at which precision is told in one figure."""

Written = Sequence[tuple[Sequence[TokenId], int, SamplingParams]]
"""Texts, where their answers begin, and how they were sampled."""


@dataclass(frozen=True, slots=True)
class ExitsJudged:
    """What ``foredraft train evaluate`` says of exits, ready for JSON."""

    exits: list[dict[str, Any]]
    """``layer``; ``right``: share of all rounds whose hint named count and token; ``precision`` of the surest hints that are
    ``coverage`` of the rounds (the least share from :data:`COVERED` on); ``ece``; ``cost``: share of a pass."""
    curves: dict[str, dict[str, Any]]
    """By layer: precision and coverage by least confidence, the reliability diagram, ``right`` greedy and sampled."""


def evaluate_exits(
    target: DecoderTarget, drafter: Drafter, written: Written, stop: set[TokenId], drafted: int
) -> ExitsJudged:
    """Judge every exit of ``target``.

    Args:
        stop: tokens that end a text.
        drafted: tokens of a round.
    """
    layers = target.exits[:-1]
    if not layers:
        return ExitsJudged([], {})
    found: dict[int, list[tuple[Hinted, bool]]] = {layer: [] for layer in layers}
    trust = Trust()  # one device writes them all
    for text, start, params in written:
        for outcome in _rounds(target, drafter, text, start, params, stop, drafted, trust):
            for layer, hint in outcome.items():
                found[layer].append((hint, params.greedy))
    costs = head_costs(target, list(written[0][0][: written[0][1]]), drafted + 1)
    exits, curves = [], {}
    for layer in layers:
        hints = [hint for hint, _ in found[layer]]
        worth = quality(hints)
        precision, coverage, confidence = _surest(hints)
        exits.append(
            {
                "layer": layer,
                "right": worth.right,
                "precision": precision,
                "coverage": coverage,
                "ece": worth.ece,
                "cost": costs[layer],
            }
        )
        curves[str(layer)] = {
            "rounds": worth.rounds,
            "confidence": confidence,
            "at": worth.at,
            "precision": worth.precision,
            "coverage": worth.coverage,
            "reliability": [asdict(point) for point in worth.reliability],
            "right_greedy": quality([hint for hint, greedy in found[layer] if greedy]).right,
            "right_sampled": quality([hint for hint, greedy in found[layer] if not greedy]).right,
        }
    return ExitsJudged(exits, curves)


def _rounds(
    target: DecoderTarget,
    drafter: Drafter,
    text: Sequence[TokenId],
    start: int,
    params: SamplingParams,
    stop: set[TokenId],
    drafted: int,
    trust: Trust,
) -> list[dict[int, Hinted]]:
    """One text in rounds: by layer, the hint of each."""
    slot = target.open()
    drafter.begin(list(text[:start]))
    if start > 1:
        target.verify([Run(slot, tuple(text[: start - 1]), 0)], exits=False).step()
    outcomes = []
    position = start
    while position < len(text):
        follow(drafter, text[:position])
        draft = [proposal.token for proposal in drafter.draft(drafted, params)]
        run = Run(slot, (*text[slot.length : position], *draft), len(draft) + 1)
        forward = target.verify([run])
        hints = {}
        for layer in target.exits[:-1]:
            view = forward.step().logits[0]
            assert view is not None
            hints[layer] = _expected(view, draft, params, position, stop, trust.share)
        final = forward.step().logits[0]
        assert final is not None
        accepted, token = _walk(lambda row, _: final.pick(row, params, position + row), draft, stop)  # noqa: B023
        outcomes.append({layer: Hinted(sure, (accepted, token) == said) for layer, (said, sure) in hints.items()})
        trust.learn(len(draft), accepted)
        position += accepted + 1
        target.keep(slot, min(slot.length, position - 1))
    target.release(slot)
    return outcomes


def _expected(
    view: Logits, draft: Sequence[TokenId], params: SamplingParams, position: int, stop: set[TokenId], trust: float
) -> tuple[tuple[int, TokenId], float]:
    sure = 1.0

    def foreseen(row: int, drafted: TokenId | None) -> TokenId:
        nonlocal sure
        token, confidence = view.foresee(row, drafted, params, position + row, trust)
        sure *= confidence
        return token

    return _walk(foreseen, draft, stop), sure


def _walk(pick: Any, draft: Sequence[TokenId], stop: set[TokenId]) -> tuple[int, TokenId]:
    """(accepted, token), as :meth:`foredraft_cloud.sessions.Session.hint` walks."""
    for row in range(len(draft) + 1):
        drafted = draft[row] if row < len(draft) else None
        token: TokenId = pick(row, drafted)
        if token != drafted or token in stop:
            return row, token
    raise AssertionError("the last row has no draft")


def _surest(hints: Sequence[Hinted]) -> tuple[float | None, float, float]:
    """Precision and coverage of the surest hints that are at least :data:`COVERED` of all, and the least confidence."""
    ordered = sorted(hints, key=lambda hint: -hint.confidence)
    if not ordered:
        return None, 0.0, 1.0
    least = ordered[max(0, -(-len(ordered) * 35 // 100) - 1)].confidence
    chosen = [hint.right for hint in ordered if hint.confidence >= least]
    return sum(chosen) / len(chosen), len(chosen) / len(ordered), least


def head_costs(target: DecoderTarget, prompt: Sequence[TokenId], rows: int, times: int = 15) -> dict[int, float]:
    """What each head adds to a pass over ``rows`` rows, as a share of the pass without; measured in turns."""
    depth = target.exits[-1]
    slot = target.open()
    target.verify([Run(slot, tuple(prompt[-64:]), 0)], exits=False).step()
    length = slot.length
    run = Run(slot, tuple(prompt[:rows]) if len(prompt) >= rows else tuple(prompt[:1]) * rows, rows)
    taken: dict[int, list[float]] = {layer: [] for layer in target.exits}
    for _ in range(times + 1):
        for layer in target.exits:
            target.make_room(slot, length + rows)
            began = time.perf_counter()
            forward = DecoderPass(target, [run], [depth] if layer == depth else [layer, depth])
            if layer != depth:
                view = forward.step().logits[0]
                assert view is not None
                for row, token in enumerate([*run.tokens[1:], None]):
                    view.foresee(row, token, SamplingParams(), length + row, Trust().share)
            forward.step()
            taken[layer].append(time.perf_counter() - began)
            target.keep(slot, length)
    target.release(slot)
    # Each against the plain pass beside it: what else the machine does hits both.
    return {
        layer: median(with_it / without - 1 for with_it, without in zip(taken[layer], taken[depth], strict=True))
        for layer in target.exits[:-1]
    }
