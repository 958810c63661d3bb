"""Self-distillation: the target answers prompts, many at a time, and what it said and nearly said is kept.

A draft must foresee what the target *says*, which no corpus of other texts can teach as well as the target itself. Every
pass feeds one token of each of many texts (or a whole prompt); a finished text makes room for the next prompt. Hidden
states are not stored: they are a thousand times larger than the tokens, and quickly computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from foredraft_shared.messages import TokenId
from foredraft_shared.models import Tokenizer
from foredraft_shared.sampling import gumbel

from ..attention import AttentionShape
from ..decoder import DecoderTarget
from ..exit_heads import FullLogits, RunLogits
from ..target import Run, Slot
from .prompts import Prompts, Request, prompt_hash
from .shards import Shards, text_of

__all__ = ["CONSIDERED", "QUICK_ATTENTION", "TOP_P", "CollectOptions", "collect", "looping", "pick_among", "top_scores"]

TOP_P = 0.95
"""What answers that are not greedy are sampled with; whoever foresees them must go by the same."""
CONSIDERED = 64
"""Most probable tokens that are sampled from."""
QUICK_ATTENTION = AttentionShape(4, 128, products=True)
"""For answers to learn from, whose last bits nobody compares."""


@dataclass(frozen=True, slots=True)
class CollectOptions:
    tokens: int
    """Answered tokens wanted in the folder, those of earlier runs included."""
    slots: int = 64
    """Texts written at a time."""
    answer: int = 256
    """Longest answer, in tokens."""
    question: int = 200
    """Longest question that the target may invent, in tokens."""
    kept: int = 16
    """Log-probabilities stored for each token."""


@dataclass(slots=True)
class _Writing:
    """A text that is being written."""

    request: Request
    slot: Slot
    tokens: list[TokenId]
    top_ids: list[NDArray[np.int64]] = field(default_factory=list)
    top_log_probabilities: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def written(self) -> int:
        return len(self.tokens) - len(self.request.tokens)


def collect(
    target: DecoderTarget,
    tokenizer: Tokenizer,
    prompts: Prompts,
    shards: Shards,
    options: CollectOptions,
    report: Callable[[int], None] = lambda made: None,
) -> int:
    """Let ``target`` answer ``prompts`` until the folder holds enough; what is finished is kept whatever happens.

    Args:
        target: with at least ``options.slots`` slots, and a context for question and answer.
        report: told, after each pass, how many answered tokens there are, those not yet on disk included.

    Returns:
        Answered tokens in the folder; fewer than wanted when the prompts run out.
    """
    stop = frozenset(tokenizer.stop_tokens)
    live: list[_Writing] = []
    made = shards.answered
    mean = 64.0  # tokens of an answer, a guess until some are finished
    try:
        while True:
            while (
                len(live) < options.slots
                and made + sum(max(1.0, mean - each.written) for each in live) < options.tokens
            ):
                request = prompts.next()
                if request is None:
                    break
                slot = target.open()
                target.pages.adopt(slot, request.tokens)  # of its twin, its first turn, or its own invention
                live.append(_Writing(request, slot, list(request.tokens)))
            if not live:
                break
            runs = [Run(each.slot, tuple(each.tokens[each.slot.length :]), 1) for each in live]
            ids, logs = top_scores(target.verify(runs, exits=False).step().logits, CONSIDERED)
            going = []
            for each, row_ids, row_logs in zip(live, ids, logs, strict=True):
                request, position = each.request, len(each.tokens)
                token = pick_among(row_ids, row_logs, request.temperature, TOP_P, request.seed, position)
                each.tokens.append(token)
                if request.messages:
                    each.top_ids.append(row_ids[: options.kept])
                    each.top_log_probabilities.append(row_logs[: options.kept])
                longest = options.answer if request.messages else options.question
                over = token in stop or each.written >= longest or len(each.tokens) >= target.context
                if not over and not (each.written % 16 == 0 and looping(each.tokens[-each.written :])):
                    going.append(each)
                    continue
                target.release(each.slot)
                said = each.tokens[len(request.tokens) :]
                if request.messages:
                    _finish(each, shards)
                    made += each.written
                    mean += 0.05 * (each.written - mean)
                    prompts.answered(request, tokenizer.decode(said))
                else:
                    prompts.invented(request, tokenizer.decode(said), token in stop)
            live = going
            report(made + sum(each.written for each in live if each.request.messages))
    finally:
        for each in live:
            target.release(each.slot)
        shards.flush()
    return made


def _finish(each: _Writing, shards: Shards) -> None:
    request = each.request
    assert request.key == prompt_hash(request.messages[0]["content"])
    start = len(request.tokens)
    shards.add(
        text_of(
            each.tokens,
            start,
            each.top_ids,
            each.top_log_probabilities,
            request.temperature,
            request.seed,
            request.key,
        )
    )


@torch.inference_mode()
def top_scores(logits: tuple[object, ...], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The most probable tokens of each run's one scored row, most probable first, and their log-probabilities.

    Returns:
        ids [runs, count], natural logarithms [runs, count] at temperature 1.
    """
    ids, logs = [], []
    for run in logits:
        assert isinstance(run, RunLogits)
        ((view, row),) = run.rows
        assert isinstance(view, FullLogits)
        scores = view.scores[row].float()  # a row fits the processor's cache
        top = scores.topk(min(count, len(scores)))
        ids.append(top.indices)
        logs.append(top.values - scores.logsumexp(0))
    return torch.stack(ids).cpu().numpy(), torch.stack(logs).cpu().numpy()


def pick_among(
    ids: NDArray[np.int64],
    log_probabilities: NDArray[np.float32],
    temperature: float,
    top_p: float,
    seed: int,
    position: int,
) -> TokenId:
    """The token that the shared noise selects among the most probable ones, [K], most probable first.

    It is :func:`foredraft_shared.sampling.pick` up to the cut at K tokens, at a hundredth of the time.
    """
    if temperature == 0.0:
        return int(ids[0])
    tempered = (log_probabilities.astype(np.float64) - float(log_probabilities[0])) / temperature
    mass = np.exp(tempered)
    mass /= mass.sum()
    kept = int(np.count_nonzero(mass.cumsum() - mass < top_p))  # the smallest set that reaches top_p
    return int(ids[np.argmax(tempered[:kept] + gumbel(seed, position, ids[:kept]))])


def looping(tokens: list[TokenId]) -> bool:
    """Whether the last 90 tokens repeat with a period of at most 30: small models do, and it teaches nothing."""
    last = tokens[-90:]
    return len(tokens) >= 100 and any(last[period:] == last[:-period] for period in range(1, 31))
