"""How well a draft foresees its target: acceptance, tokens a round, cost.

The target first answers the prompts itself, greedily and sampled. Then the drafter, through the very backend that a device
uses, guesses each of these tokens from the true text before it, with the same noise. That is exactly what decides a round:
a round's i-th guess matters only where the guesses before it were right, and then it stands after the true text.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from foredraft_cloud.decoder import DecoderTarget, load_target
from foredraft_cloud.target import Logits, Run
from foredraft_edge.drafters import Drafter, follow, load_drafter
from foredraft_shared.errors import UsageError
from foredraft_shared.messages import SamplingParams, TokenId
from foredraft_shared.models import Model
from foredraft_shared.models.artifacts import Artifact

from .exit_evaluation import evaluate_exits

__all__ = ["Evaluation", "acceptance_by_position", "categories_of", "evaluate_draft", "tokens_per_round"]

DEEPEST = 12
"""Drafted tokens of the longest round that is reported."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One kind of sampling."""

    alpha: float
    """Share of the target's tokens that the draft guesses, each after the true text."""
    by_position: list[float | None]
    """The same for the first, second… token of a round of :data:`DEEPEST`; ``None`` where no round came so far."""
    tokens_per_round: dict[int, float]
    """By the number of drafted tokens: how many a pass of the target yields, its own included."""
    tokens: int
    by_category: dict[str, float]
    """Share of tokens foreseen, by kind of prompt; empty where the file names none."""


def _by_category(hits: Sequence[Sequence[bool]], categories: Sequence[str]) -> dict[str, float]:
    texts: dict[str, list[bool]] = {}
    for text, category in zip(hits, categories, strict=False):
        texts.setdefault(category, []).extend(text)
    return {category: sum(found) / len(found) for category, found in sorted(texts.items()) if category}


def categories_of(path: Path) -> list[str]:
    """The field ``category`` of each line; empty where there is none. The file has been read as prompts before."""
    lines = path.read_text("utf-8-sig").split("\n")
    return [str(json.loads(line).get("category", "")) for line in lines if line.strip()]


def tokens_per_round(hits: Sequence[Sequence[bool]], drafted: int) -> float:
    """Mean tokens that a round commits, over texts whose tokens the draft would guess (``True``) or not."""
    rounds = tokens = 0
    for text in hits:
        position = 0
        while position < len(text):
            position += _accepted(text, position, drafted) + 1
            rounds += 1
        tokens += len(text)
    return tokens / max(rounds, 1)


def acceptance_by_position(hits: Sequence[Sequence[bool]], drafted: int) -> list[float | None]:
    """How often the first, second… token of a round is right, where those before it were."""
    offered, right = [0] * drafted, [0] * drafted
    for text in hits:
        position = 0
        while position < len(text):
            accepted = _accepted(text, position, drafted)
            for index in range(min(accepted + 1, drafted, len(text) - position)):
                offered[index] += 1
                right[index] += index < accepted
            position += accepted + 1
    return [right[index] / offered[index] if offered[index] else None for index in range(drafted)]


def _accepted(text: Sequence[bool], start: int, drafted: int) -> int:
    end = start
    while end < min(len(text), start + drafted) and text[end]:
        end += 1
    return end - start


def answers(
    target: DecoderTarget,
    prompts: Sequence[Sequence[TokenId]],
    params: Sequence[SamplingParams],
    tokens: int,
    stop: set[TokenId],
) -> list[list[TokenId]]:
    """The target's own texts, prompts included, all written side by side."""
    texts = [list(prompt) for prompt in prompts]
    slots = [target.open() for _ in texts]
    live = list(range(len(texts)))
    while live:
        runs = [Run(slots[index], tuple(texts[index][slots[index].length :]), 1) for index in live]
        view = target.verify(runs, exits=False).step()
        for index, logits in zip(live, view.logits, strict=True):
            assert logits is not None
            texts[index].append(_pick(logits, params[index], len(texts[index])))
        live = [
            index for index in live if texts[index][-1] not in stop and len(texts[index]) - len(prompts[index]) < tokens
        ]
    for slot in slots:
        target.release(slot)
    return texts


def _pick(logits: Logits, params: SamplingParams, position: int) -> TokenId:
    return logits.pick(0, params, position)


def guesses(drafter: Drafter, text: Sequence[TokenId], start: int, params: SamplingParams) -> list[bool]:
    """For each token of ``text`` from ``start`` on: whether the draft says it, given all before."""
    hits = []
    drafter.begin(list(text[:start]))
    for position in range(start, len(text)):
        follow(drafter, text[:position])
        proposal = next(iter(drafter.draft(1, params)), None)
        hits.append(proposal is not None and proposal.token == text[position])
    return hits


def cost_ratio(target: DecoderTarget, drafter: Drafter, text: Sequence[TokenId], steps: int) -> tuple[float, float]:
    """Median seconds of a drafted token and of a decoded one, taken in turns so that both see the same machine."""
    slot = target.open()
    drafter.begin(list(text))
    next(iter(drafter.draft(1, SamplingParams())), None)
    feed = tuple(text)
    drafted, decoded = [], []
    for _ in range(steps + 1):
        began = time.perf_counter()
        logits = target.verify([Run(slot, feed, 1)], exits=False).step().logits[0]
        assert logits is not None
        feed = (logits.pick(0, SamplingParams(), slot.length),)
        decoded.append(time.perf_counter() - began)
        began = time.perf_counter()
        next(iter(drafter.draft(1, SamplingParams())), None)
        drafted.append(time.perf_counter() - began)
    target.release(slot)
    return median(drafted[1:]), median(decoded[1:])


def evaluate_draft(
    model: Model,
    draft: str,
    prompts: Sequence[str],
    *,
    tokens: int = 64,
    dtype: str = "bfloat16",
    threads: int = 1,
    together: int = 16,
    longest: int = 1024,
    categories: Sequence[str] = (),
    exits: Sequence[int] | None = (),
    heads: Artifact | None = None,
    drafted: int = 4,
) -> dict[str, Any]:
    """What ``foredraft train evaluate`` writes.

    Args:
        draft: a drafter's spec.
        tokens: of each answer, at most.
        together: answers that the target writes at a time.
        longest: tokens of a prompt; longer ones are left out.
        categories: of the prompts, where they are known: acceptance is told for each.
        exits: layers whose hints are judged; ``None`` for those that ``heads`` has a head for.
        heads: trained exit heads.
        drafted: tokens of the rounds that hints are judged in.
    """
    tokenizer = model.tokenizer
    encoded = [tokenizer.encode(tokenizer.chat([{"role": "user", "content": prompt}])) for prompt in prompts]
    kinds_of_text = [each for prompt, each in zip(encoded, categories, strict=False) if len(prompt) <= longest]
    encoded = [prompt for prompt in encoded if len(prompt) <= longest]
    if not encoded:
        raise UsageError(f"every prompt is longer than {longest} tokens; evaluate on shorter ones.")
    drafter, _ = load_drafter(draft, tokenizer, target=model.path, threads=threads)
    target = load_target(
        model,
        dtype=dtype,
        exits=exits,
        heads=heads,
        context=longest + tokens + 96,
        slots=together + 1,
        threads=threads,
    )
    found: dict[str, Evaluation] = {}
    written: list[tuple[list[TokenId], int, SamplingParams]] = []
    try:
        for kind, temperature in (("greedy", 0.0), ("sampled", 0.8)):
            hits = []
            for start in range(0, len(encoded), together):
                group = encoded[start : start + together]
                params = [
                    SamplingParams(temperature=temperature, top_p=0.95, seed=start + index)
                    for index in range(len(group))
                ]
                texts = answers(target, group, params, tokens, set(tokenizer.stop_tokens))
                for text, prompt, each in zip(texts, group, params, strict=True):
                    written.append((text, len(prompt), each))
                    hits.append(guesses(drafter, text, len(prompt), each))
            count = sum(map(len, hits))
            found[kind] = Evaluation(
                alpha=sum(map(sum, hits)) / max(count, 1),
                by_position=acceptance_by_position(hits, DEEPEST),
                tokens_per_round={drafted: tokens_per_round(hits, drafted) for drafted in range(1, DEEPEST + 1)},
                tokens=count,
                by_category=_by_category(hits, kinds_of_text),
            )
        drafted_s, decoded_s = cost_ratio(target, drafter, encoded[0], min(32, tokens))
        judged = evaluate_exits(target, drafter, written, set(tokenizer.stop_tokens), drafted)
    finally:
        drafter.close()
    return {
        "target": Path(model.name).name,
        "draft": draft,
        "dtype": dtype,
        "prompts": len(encoded),
        "prompts_left_out": len(prompts) - len(encoded),
        "alpha_greedy": found["greedy"].alpha,
        "alpha_sampled": found["sampled"].alpha,
        "draft_cost_ratio": drafted_s / decoded_s,
        "exits": judged.exits,
        "hint_curves": judged.curves,
        "drafted": drafted,
        "draft_ms": drafted_s * 1e3,
        "target_ms": decoded_s * 1e3,
        "by_position": {kind: each.by_position for kind, each in found.items()},
        "tokens_per_round": {kind: each.tokens_per_round for kind, each in found.items()},
        "by_category": {kind: each.by_category for kind, each in found.items()},
        "tokens": {kind: each.tokens for kind, each in found.items()},
    }
