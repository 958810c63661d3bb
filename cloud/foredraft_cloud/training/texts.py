"""Collected texts as what a step of training needs: split by prompt, in batches of similar length, as tensors."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foredraft_shared.messages import TokenId

from .prompts import held_out
from .shards import Text

__all__ = ["Batch", "batch_of", "batches", "data_facts", "split_by_prompt", "spread", "sub_vocabulary"]


def split_by_prompt(texts: Sequence[Text], share: float) -> tuple[list[Text], list[Text]]:
    """(training, validation): all answers to a prompt lie on the same side, now and in every later run."""
    sides: tuple[list[Text], list[Text]] = ([], [])
    for text in texts:
        sides[held_out(text.key, share)].append(text)
    return sides


def spread(texts: Sequence[Text], most: int) -> list[Text]:
    """At most so many of them, from all over."""
    count = min(most, len(texts))
    return [texts[index * len(texts) // count] for index in range(count)]


def data_facts(texts: Sequence[Text]) -> dict[str, int]:
    """How much it is, as an artifact notes it."""
    return {
        "texts": len(texts),
        "prompts": len({text.key for text in texts}),
        "answered_tokens": sum(text.answered for text in texts),
    }


def sub_vocabulary(
    texts: Sequence[Text], vocabulary: int, size: int, always: Sequence[TokenId] = ()
) -> NDArray[np.int64]:
    """The ``size`` tokens the target is most likely to say, by its own probabilities on ``texts``; ascending.

    What was never seen ranks by its id: tokenizers learn frequent pieces first.
    """
    counts = 1e-3 / (np.arange(vocabulary) + 100.0)
    for text in texts:
        np.add.at(counts, text.top_ids, np.exp(text.top_log_probabilities))
    counts[[token for token in always if token < vocabulary]] = np.inf
    return np.sort(np.argsort(-counts, kind="stable")[:size])


def batches(texts: Sequence[Text], size: int, seed: int) -> list[list[Text]]:
    """Neighbours in length together, at most ``size`` positions with the padding (or one text), in random order."""
    random_ = random.Random(seed)
    groups: list[list[Text]] = [[]]
    for text in sorted(texts, key=lambda each: len(each.tokens) + random_.random() * 24):
        longest = max((len(each.tokens) for each in groups[-1]), default=0)
        if groups[-1] and (len(groups[-1]) + 1) * max(longest, len(text.tokens)) > size:
            groups.append([])
        groups[-1].append(text)
    random_.shuffle(groups)
    return [group for group in groups if group]


@dataclass(frozen=True, slots=True)
class Batch:
    """B texts padded to T tokens; M answered tokens in all."""

    tokens: Tensor  # [B, T] int64
    rows: Tensor  # [M] int64, flat indices of the positions that predict the answered tokens
    top_ids: Tensor  # [M, K] int64, of the target
    top_probabilities: Tensor  # [M, K] float32


def batch_of(texts: Sequence[Text], device: torch.device) -> Batch:
    longest = max(len(text.tokens) for text in texts)
    tokens = np.zeros((len(texts), longest), np.int64)
    rows = []
    for index, text in enumerate(texts):
        tokens[index, : len(text.tokens)] = text.tokens
        rows.append(np.arange(text.start, len(text.tokens)) - 1 + index * longest)
    ids = np.concatenate([text.top_ids for text in texts])
    probabilities = np.exp(np.concatenate([text.top_log_probabilities for text in texts]))
    values = (tokens, np.concatenate(rows), ids, probabilities)
    return Batch(*(torch.from_numpy(value).to(device) for value in values))
