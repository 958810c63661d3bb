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

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.errors import ModelDamaged, UsageError
from foredraft_shared.messages import Position, SamplingParams, TokenId
from foredraft_shared.sampling import gumbel

from .calibration import Logistic

if TYPE_CHECKING:
    from .reading import Said

__all__ = ["WIDTHS", "Evidence", "Foresight", "Trust", "evidence"]

_FEATURES = 2
"""Counts up with every change to what :func:`evidence` and :class:`Trust` say."""
WIDTHS: Mapping[str, int] = {"drafted": 12, "instead": 7, "beyond": 7}
"""How many features each regression of :class:`Foresight` reads."""
_TRUST_RATE = 0.06
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


@dataclass(slots=True)
class Evidence:
    """Of one row."""

    rival: TokenId
    """The exit's pick among all tokens but the drafted one."""
    of_draft: tuple[float, ...] | None
    """Features of the first question; ``None`` where nothing was drafted."""
    of_rival: tuple[float, ...]
    """Features of the other two."""


def evidence(
    row: Said,
    tokens: NDArray[np.int64],
    drafted: TokenId | None,
    params: SamplingParams,
    position: Position,
    before: int,
    trust: float,
) -> Evidence:
    """What there is to go by.

    In plain numbers: between the halves of a pass the caches are full of weights, and each call of numpy takes as long as
    all of this.

    Args:
        tokens: [V] all that the exit can say, ascending.
        position: where the token would stand.
        before: how many drafted tokens stand before it in this round.
    """
    logs = row.logs
    rank = row.tokens.index(drafted) if drafted in row.tokens else None
    if params.greedy:
        standing, few = logs, 0
    else:
        standing, few = _standing(row, params, position)
    # Behind those with noise they fall.
    contenders = [index for index in range(min(few + 3, len(logs))) if index != rank]
    first = max(contenders, key=standing.__getitem__)
    second = max((standing[index] for index in contenders if index != first), default=-math.inf)
    ahead = min(standing[first] - second, _FARTHEST)
    trust = min(max(trust, 0.02), 0.98)
    faith = math.log(trust / (1.0 - trust))
    noisy = 0.0 if params.greedy else min(params.temperature, 2.0)
    common = (row.doubt, logs[0], noisy, math.log1p(before))
    of_draft = None
    if drafted is not None:
        if rank is not None:
            margin = min(max(standing[rank] - standing[first], -_FARTHEST), _FARTHEST)
            probability, unseen = logs[rank], 0.0
        else:
            margin, probability = -_FARTHEST / 2, logs[-1]
            rank, unseen = len(logs), 0.0 if _holds(tokens, drafted) else 1.0
        of_draft = (
            max(probability, -_FARTHEST),
            margin,
            math.tanh(margin),
            float(margin > 0),
            math.log1p(rank),
            unseen,
            faith * logs[0],
            *common,
            faith,
        )
    of_rival = (max(logs[first], -_FARTHEST), ahead, math.tanh(ahead), *common)
    return Evidence(row.tokens[first], of_draft, of_rival)


def _standing(row: Said, params: SamplingParams, position: Position) -> tuple[list[float], int]:
    """How high each token stands once it is tempered and has its noise, and how many have any: the first ones."""
    tempered = [(log - row.logs[0]) / params.temperature for log in row.logs]
    shares = [math.exp(each) for each in tempered]
    total = sum(shares)
    few, mass = 0, 0.0
    while few < len(shares) and mass < params.top_p * total and shares[few] >= params.min_p:
        mass += shares[few]
        few += 1
    few = min(few, params.top_k) if params.top_k else few
    noise = gumbel(params.seed, position, np.array(row.tokens[:few])).tolist()
    return [each + noise[index] if index < few else each - _FARTHEST for index, each in enumerate(tempered)], few


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
            return seen.rival, self.beyond.of_one(seen.of_rival)
        stands = self.drafted.of_one(seen.of_draft)
        instead = (1.0 - stands) * self.instead.of_one(seen.of_rival)
        return (drafted, stands) if stands >= instead else (seen.rival, instead)

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"features": _FEATURES} | {name: getattr(self, name).facts() for name in WIDTHS}

    @classmethod
    def of(cls, facts: object) -> Foresight:
        """From :meth:`facts`.

        Raises:
            UsageError: another version made it, and it reads other features.
            ModelDamaged: they are not such facts; says why, and names no file.
        """
        if not isinstance(facts, Mapping):
            raise ModelDamaged("its calibration is no table")
        if facts.get("features") != _FEATURES:
            raise UsageError("its calibration reads other features")
        made = {}
        for name, width in WIDTHS.items():
            try:
                made[name] = Logistic.of(facts.get(name, {}), width)
            except ValueError as error:
                raise ModelDamaged(f"its calibration of {name!r}: {error}") from None
        return cls(**made)
