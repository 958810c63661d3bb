"""What the target's layers say of collected texts, at the layers where exits are to be: computed once, kept in files.

The trunk under an exit never changes, so its states are computed once for all exits and all steps of training. They lie in
one file a group of texts, written whole or not at all: a run that was stopped goes on where it was. float16 keeps three
digits, two more than the heads are moved by; 1 kB a position and exit for a hidden size of 576.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from numpy.typing import NDArray
from torch import Tensor

from foredraft_shared.models import Model

from .network import Network, layer_weights, tensor
from .shards import Text

__all__ = ["States"]

_TEXTS_A_FILE = 48
_POSITIONS = 4096
"""That go through the trunk at a time, padding included."""
_LARGEST = 60_000.0
"""Of float16, with room to spare: some models have a few huge states."""


class States:
    """Hidden states after some layers, for every position of every text.

    Args:
        folder: of the files; may hold those of an earlier run.
        layers: after how many layers, ascending.
        dtype: of the arithmetic.
        context: longest text, in tokens.
    """

    def __init__(
        self,
        folder: Path,
        model: Model,
        layers: Sequence[int],
        *,
        device: torch.device,
        dtype: torch.dtype,
        context: int,
    ) -> None:
        self.layers = tuple(layers)
        self.device, self.dtype = device, dtype
        self.network = Network(model.config, device, dtype, min(context, model.config.context))
        self._folder, self._model = folder, model
        self._found: dict[int, tuple[NDArray[np.float16], int]] = {}
        """By the identity of a text: the file's states [layers, positions, E], and where the text's begin."""

    def prepare(self, texts: Sequence[Text], report: Callable[[int], None] = lambda positions: None) -> None:
        """Make sure of the states of all ``texts``; ``report`` is told of positions done."""
        self._folder.mkdir(parents=True, exist_ok=True)
        blocks: list[dict[str, Tensor]] | None = None
        for start in range(0, len(texts), _TEXTS_A_FILE):
            group = texts[start : start + _TEXTS_A_FILE]
            path = self._folder / f"{self._name(group)}.npy"
            if not path.exists():
                if blocks is None:
                    weights = self._model.weights
                    blocks = [
                        layer_weights(weights, index, self.device, self.dtype) for index in range(self.layers[-1])
                    ]
                    self._embedding = tensor(weights, "embedding.weight", self.device, self.dtype)
                made = self._compute(group, blocks)
                partial = path.with_suffix(".partial")
                with partial.open("wb") as file:
                    np.save(file, made)
                partial.replace(path)
            kept: NDArray[np.float16] = np.load(path, mmap_mode="r")
            begin = 0
            for text in group:
                self._found[id(text)] = (kept, begin)
                begin += len(text.tokens)
            report(begin)

    def padded(self, texts: Sequence[Text], layer: int) -> Tensor:
        """[B, T, E] in the arithmetic's dtype, zeros beyond the end of a text."""
        width = self._model.config.hidden
        longest = max(len(text.tokens) for text in texts)
        states = np.zeros((len(texts), longest, width), np.float32)
        for index, text in enumerate(texts):
            states[index, : len(text.tokens)] = self._of(text, layer)
        return torch.from_numpy(states).to(self.device, self.dtype)

    def answering(self, texts: Sequence[Text], layer: int) -> Tensor:
        """[M, E]: the states at the positions that predict the answered tokens."""
        rows = [self._of(text, layer)[text.start - 1 : -1] for text in texts]
        return torch.from_numpy(np.concatenate(rows).astype(np.float32)).to(self.device, self.dtype)

    @torch.no_grad()
    def final(self, texts: Sequence[Text]) -> Tensor:
        """[M, E] float32: after all layers and the final norm, where the answered tokens are predicted."""
        weights, layer = self._model.weights, self.layers[-1]
        depth = self._model.config.layers
        blocks = [layer_weights(weights, index, self.device, self.dtype) for index in range(layer, depth)]
        norm = tensor(weights, "norm.weight", self.device)
        rows: dict[int, Tensor] = {}
        for batch in _by_length(texts):
            state = self.padded(batch, layer)
            for block in blocks:
                state = self.network.layer(state, block)
            for text, each in zip(batch, state, strict=True):
                rows[id(text)] = self.network.norm(each[text.start - 1 : len(text.tokens) - 1].float(), norm)
        return torch.cat([rows[id(text)] for text in texts])

    def _of(self, text: Text, layer: int) -> NDArray[np.float16]:
        kept, begin = self._found[id(text)]
        states: NDArray[np.float16] = kept[self.layers.index(layer), begin : begin + len(text.tokens)]
        return states

    def _name(self, group: Sequence[Text]) -> str:
        digest = hashlib.blake2b(repr(self.layers).encode(), digest_size=12)
        for text in group:
            digest.update(len(text.tokens).to_bytes(4, "little") + text.tokens.tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def _compute(self, group: Sequence[Text], blocks: Sequence[dict[str, Tensor]]) -> NDArray[np.float16]:
        rows: dict[int, NDArray[np.float16]] = {}
        for batch in _by_length(group):
            longest = max(len(text.tokens) for text in batch)
            tokens = np.zeros((len(batch), longest), np.int64)
            for index, text in enumerate(batch):
                tokens[index, : len(text.tokens)] = text.tokens
            state = F.embedding(torch.from_numpy(tokens).to(self.device), self._embedding)
            seen = []
            for first, last in pairwise((0, *self.layers)):
                for block in blocks[first:last]:
                    state = self.network.layer(state, block)
                seen.append(state.float().clamp(-_LARGEST, _LARGEST).half().cpu().numpy())
            states = np.stack(seen)  # [layers, B, T, E]
            for index, text in enumerate(batch):
                rows[id(text)] = states[:, index, : len(text.tokens)]
        return np.concatenate([rows[id(text)] for text in group], axis=1)


def _by_length(texts: Sequence[Text]) -> list[list[Text]]:
    """Neighbours in length together, so that little is padded."""
    groups: list[list[Text]] = [[]]
    for text in sorted(texts, key=lambda each: len(each.tokens)):
        if groups[-1] and (len(groups[-1]) + 1) * len(text.tokens) > _POSITIONS:
            groups.append([])
        groups[-1].append(text)
    return [group for group in groups if group]
