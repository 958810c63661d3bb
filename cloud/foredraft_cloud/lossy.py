"""A target that ends at an exit: it loads the layers up to it, and what its head says there is final.

This is the greedy exit of HELIOS (Kumar and others, arXiv:2504.10724), for a whole server: less memory and a shorter pass for
a text that is *not* the model's own. It breaks the one law on purpose; within the text everything else holds: a token depends
on weights, exit, prompt, sampling and seed alone. Devices are told the layer, and a text that does not name it is refused.

An exit without a trained head is read by the model's own norm and head. A trained head's own layer stands as one more layer
behind the exit; its head can say the tokens it was trained for, and no others.
"""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foredraft_shared.errors import ModelUnsupported, UsageError
from foredraft_shared.models.artifacts import Artifact
from foredraft_shared.models.config import ModelConfig

from .decoder import DecoderTarget, LoadedModel, load_target
from .exit_heads import FullLogits
from .proof import prove_rows
from .stored_heads import stored_heads
from .trained_heads import TrainedHead, trained_heads
from .transformer import Weights

__all__ = ["load_lossy_target"]


@dataclass(frozen=True, slots=True)
class _Truncated:
    """The first layers of a model, as a model."""

    config: ModelConfig
    weights: Weights
    whole: LoadedModel

    @property
    def tokenizer(self) -> object:
        """What W8A8 reads its calibration text with."""
        return getattr(self.whole, "tokenizer", None)


class _FinalHead:
    """A trained head whose word is final: over the whole vocabulary, so that the noise of sampling is the device's."""

    def __init__(self, head: TrainedHead, vocabulary: int) -> None:
        self.head = head
        self._tokens = torch.from_numpy(head.tokens)
        self._vocabulary = vocabulary

    def __call__(self, hidden: Tensor) -> FullLogits:
        said = self.head.scores(hidden).float()
        scores = said.new_full((len(said), self._vocabulary), -torch.inf)
        scores[:, self._tokens] = said
        return FullLogits(scores)


def load_lossy_target(
    model: LoadedModel,
    layer: int,
    *,
    heads: Artifact | None = None,
    dtype: str = "bfloat16",
    context: int | None = None,
    slots: int = 16,
    cache_bytes: int | None = None,
    threads: int | None = None,
    compiled: bool = True,
) -> DecoderTarget:
    """Make a target of a model's first ``layer`` layers; of the others nothing is read.

    Args:
        heads: trained exit heads, of which that of ``layer`` is taken; ``None``: the model's own head.
        dtype, context, slots, cache_bytes, threads, compiled: see :func:`~foredraft_cloud.decoder.load_target`.

    Raises:
        UsageError: the model has no such layer, or it is its last, or ``heads`` has no head there.
        ModelUnsupported: no batch shape gives the head reproducible results.
    """
    depth = model.config.layers
    if not 0 < layer < depth:
        raise UsageError(f"the lossy exit is {layer}; choose a layer from 1 to {depth - 1}, below the model's last.")
    own: dict[str, np.ndarray] = {}
    if heads is not None:
        stored = stored_heads(heads, model.config, model.weights).heads
        if layer not in stored:
            has = ", ".join(map(str, stored))
            raise UsageError(f"{heads.path} has no head at layer {layer}, only at {has}; choose one of those.")
        own = {f"layers.{layer}.{name}": value for name, value in stored[layer].tensors.items()}
    attends = f"layers.{layer}.attn_norm.weight" in own
    weights: Weights = ChainMap(own, model.weights) if attends else model.weights  # type: ignore[arg-type]
    truncated = _Truncated(replace(model.config, layers=layer + attends), weights, model)
    target = load_target(
        truncated,
        dtype=dtype,
        context=context,
        slots=slots,
        cache_bytes=cache_bytes,
        threads=threads,
        compiled=compiled,
    )
    if heads is not None:
        with torch.inference_mode():
            trained = trained_heads(heads, target.transformer, model.weights, (layer,), final=True)[layer]
            target.ladder = prove_rows((trained.scores,), model.config.hidden, target.ladder)
        if not target.ladder:
            raise ModelUnsupported(f"no batch shape gives the head at layer {layer} reproducible results; use float32.")
        target.heads[target.exits[-1]] = _FinalHead(trained, target.vocabulary)
    return target
