"""What an exit expects the verdict to be, and how surely.

At a row the exit has scores for the tokens it can say. The device drafted a token there, which is evidence by itself: a
draft that has been right nine times in ten is probably right again, whatever a shallow exit thinks of it. So three
questions are asked of a calibrated regression each:

* will the drafted token stand? By its probability, rank and margin in the exit, by the exit's doubt, by how far into the
  round it is, and by how often this device's tokens have stood lately (``trust``);
* if it does not, will the token be the exit's next best?
* and where nothing was drafted (the token after the last), will it be the exit's best?

The answer is the likelier of "the drafted token" and "the exit's next best". The confidence of a whole outcome is the
product along the walk, since each answer is given under the condition that those before it were right.

Under sampling the exit's scores are compared as the target's will be: tempered, cut to the nucleus, with the shared noise
added (:mod:`foredraft_shared.sampling`). Where the noise decides, even a vague exit knows the pick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.messages import Position, SamplingParams, TokenId
from foredraft_shared.sampling import gumbel

from .calibration import Logistic

__all__ = ["Evidence", "Foresight", "Trust", "evidence"]

_TRUST_RATE = 0.06
_CONSIDERED = 64
_FARTHEST = 12.0
"""Nats: no margin is worth more."""


@dataclass(slots=True)
class Trust:
    """How often the drafted tokens of a device have stood lately.

    The mean of those seen, and of a few imagined ones, until it is one that forgets: a good draft is known after a dozen
    tokens.
    """

    share: float = 0.7
    """In [0, 1]; of a device whose drafts nobody has seen yet, a guess."""
    _weight: float = 3.0

    def learn(self, drafted: int, accepted: int) -> None:
        """Of ``drafted`` tokens the first ``accepted`` stood; those behind the first that did not were never judged."""
        for index in range(min(drafted, accepted + 1)):
            self._weight = min(self._weight + 1.0, 1.0 / _TRUST_RATE)
            self.share += ((index < accepted) - self.share) / self._weight


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one row."""

    rival: TokenId
    """The exit's pick among all tokens but the drafted one."""
    of_draft: NDArray[np.float64] | None
    """Features of the first question; ``None`` where nothing was drafted."""
    of_rival: NDArray[np.float64]
    """Features of the other two."""


def evidence(
    scores: NDArray[np.float32],
    tokens: NDArray[np.int64],
    drafted: TokenId | None,
    params: SamplingParams,
    position: Position,
    row: int,
    trust: float,
) -> Evidence:
    """What there is to go by.

    Args:
        scores: [V] of the exit, at temperature 1.
        tokens: [V] the ids they belong to, ascending.
        position: where the token would stand.
        row: how many drafted tokens stand before it in this round.
    """
    trust = min(max(trust, 0.02), 0.98)
    count = min(_CONSIDERED, len(scores))
    best = np.argpartition(scores, len(scores) - count)[len(scores) - count :]
    best = best[np.argsort(-scores[best], kind="stable")]
    total = float(scores[best[0]]) + float(np.log(np.exp(scores - scores[best[0]]).sum()))
    logs = scores[best].astype(np.float64) - total  # [count]
    ids = tokens[best]
    mass = np.exp(logs)
    doubt = float(-(mass * logs).sum())
    if params.greedy:
        standing = logs.copy()
    else:
        tempered = (logs - logs[0]) / params.temperature
        share = np.exp(tempered)
        share /= share.sum()
        kept = share.cumsum() - share < params.top_p
        if params.top_k:
            kept[params.top_k :] = False
        if params.min_p:
            kept &= share >= params.min_p * share[0]
        standing = np.where(kept, tempered + gumbel(params.seed, position, ids), tempered - _FARTHEST)
    found = np.flatnonzero(ids == drafted) if drafted is not None else np.zeros(0, np.int64)
    of_draft = None
    heights = standing
    if len(found):
        heights = standing.copy()
        heights[found[0]] = -np.inf
    first = int(np.argmax(heights))
    second = float(np.max(np.delete(heights, first), initial=-np.inf))
    ahead = min(float(heights[first]) - second, _FARTHEST) if np.isfinite(second) else _FARTHEST
    noisy = 0.0 if params.greedy else min(params.temperature, 2.0)
    common = (doubt, float(logs[0]), noisy, float(np.log1p(row)), float(np.log(trust / (1.0 - trust))))
    if drafted is not None:
        if len(found):
            margin = float(np.clip(standing[found[0]] - heights[first], -_FARTHEST, _FARTHEST))
            probability, rank, unseen = float(logs[found[0]]), int(found[0]), 0.0
        else:
            margin, probability, rank = -_FARTHEST / 2, float(logs[-1]), count
            unseen = 0.0 if _holds(tokens, drafted) else 1.0
        of_draft = np.array(
            [
                max(probability, -_FARTHEST),
                margin,
                float(np.tanh(margin)),
                float(margin > 0),
                float(np.log1p(rank)),
                unseen,
                common[-1] * float(logs[0]),
                *common,
            ]
        )
    of_rival = np.array([max(float(logs[first]), -_FARTHEST), ahead, float(np.tanh(ahead)), *common[:-1]])
    return Evidence(int(ids[first]), of_draft, of_rival)


def _holds(tokens: NDArray[np.int64], token: TokenId) -> bool:
    index = int(np.searchsorted(tokens, token))
    return index < len(tokens) and int(tokens[index]) == token


@dataclass(frozen=True, slots=True)
class Foresight:
    """The three regressions of an exit."""

    drafted: Logistic
    """Will the drafted token stand?"""
    instead: Logistic
    """If not, will the token be the exit's next best?"""
    beyond: Logistic
    """Where nothing was drafted: will it be the exit's best?"""

    def __call__(self, seen: Evidence, drafted: TokenId | None) -> tuple[TokenId, float]:
        """The likeliest token, and the probability that it is the one."""
        if seen.of_draft is None or drafted is None:
            return seen.rival, float(self.beyond(seen.of_rival))
        stands = float(self.drafted(seen.of_draft))
        instead = (1.0 - stands) * float(self.instead(seen.of_rival))
        return (drafted, stands) if stands >= instead else (seen.rival, instead)

    def facts(self) -> dict[str, dict[str, list[float]]]:
        """As JSON has it."""
        return {name: getattr(self, name).facts() for name in ("drafted", "instead", "beyond")}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Foresight:
        """From :meth:`facts`; raises what :meth:`Logistic.of` does."""
        return cls(*(Logistic.of(facts[name]) for name in ("drafted", "instead", "beyond")))
