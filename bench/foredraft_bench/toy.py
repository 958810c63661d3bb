"""The toy target's text, and a drafter that foresees it: what runs without a model, in tests and measurements of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from foredraft_cloud.toy import toy_scores
from foredraft_edge.drafters.base import Proposal
from foredraft_edge.drafters.text import Text
from foredraft_shared.clock import ManualClock
from foredraft_shared.messages import Position, SamplingParams, TokenId
from foredraft_shared.sampling import noise_bits, pick

__all__ = ["VOCABULARY", "ToyDrafter", "continuation"]

VOCABULARY = 64


def continuation(
    prompt: Sequence[TokenId], params: SamplingParams, count: int, stop_tokens: Sequence[TokenId] = ()
) -> list[TokenId]:
    """What the toy target says after ``prompt``: the truth that every run must reproduce."""
    text = list(prompt)
    for _ in range(count):
        text.append(pick(toy_scores(text, VOCABULARY), params, len(text)))
        if text[-1] in stop_tokens:
            break
    return text[len(prompt) :]


class ToyDrafter(Text):
    """Agrees with the toy target at about ``skill`` of the positions.

    Args:
        silent: share of the positions at which it has nothing to propose.
        clock: if given, a token takes ``token_s`` seconds on it.
    """

    def __init__(
        self,
        skill: float = 0.8,
        *,
        seed: int = 0,
        silent: float = 0.0,
        clock: ManualClock | None = None,
        token_s: float = 0.0,
    ) -> None:
        super().__init__("")
        self._skill = skill
        self._seed = seed
        self._silent = silent
        self._clock = clock
        self._token_s = token_s

    def draft(self, limit: int, params: SamplingParams) -> Iterator[Proposal]:
        for _ in range(limit):
            position = len(self._text)
            if self._dice(position, 1) < self._silent:
                return
            knows = self._dice(position, 0) < self._skill
            token = pick(toy_scores(self._text, VOCABULARY, 0 if knows else 9), params, position)
            if self._clock is not None:
                self._clock.advance(self._token_s)
            self._text.append(token)
            yield Proposal(token, 0.85 if knows else 0.35)

    def _dice(self, position: Position, which: int) -> float:
        return int(noise_bits(self._seed, position, np.full(1, which))[0]) / 2**32
