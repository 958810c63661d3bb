"""What a file of exit heads holds, checked before anything computes with it: kernels read where they are told to.

``head.tokens`` [V] are the ids that every head of the file can say, ascending; ``exits.{layer}.{name}`` are the tensors of the
head behind so many layers, named as those of the target's next layer; and ``exits`` among the facts has a table for each of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.errors import ModelDamaged, UsageError
from foredraft_shared.models.artifacts import Artifact
from foredraft_shared.models.config import ModelConfig

from .foresight import Foresight

__all__ = ["StoredHead", "StoredHeads", "damaged", "foresight_of", "head_tokens", "layers_of", "stored_heads"]

_CURE = "train its exits again"
_TENSOR = re.compile(r"exits\.([1-9][0-9]{0,3})\.(.+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoredHead:
    """Of one layer."""

    tensors: Mapping[str, NDArray[np.float32]]
    """By name, without ``exits.{layer}.``."""
    facts: Mapping[str, Any]
    """What was noted when it was made."""

    @property
    def attends(self) -> bool:
        """Whether it has a whole layer of its own; otherwise it has a feed-forward part."""
        return "attn_norm.weight" in self.tensors


@dataclass(frozen=True, slots=True)
class StoredHeads:
    """Of one target."""

    tokens: NDArray[np.int64]  # [V] that they can say, ascending
    heads: Mapping[int, StoredHead]  # by layer, ascending


def damaged(artifact: Artifact, reason: object, cure: str = _CURE) -> ModelDamaged:
    """The error that says so."""
    return ModelDamaged(f"{artifact.path} is damaged ({str(reason).rstrip('.')}); {cure}.")


def layers_of(artifact: Artifact) -> tuple[int, ...]:
    """The layers that it has a head for, ascending.

    Raises:
        ModelDamaged: a tensor has a name that is none.
    """
    return tuple(sorted({layer for layer, _, _ in _named(artifact)}))


def stored_heads(artifact: Artifact, config: ModelConfig, weights: Mapping[str, object]) -> StoredHeads:
    """All heads of ``artifact``; their calibrations are left to :func:`foresight_of`.

    Args:
        config, weights: of the target that it was trained for.

    Raises:
        ModelDamaged: something is missing, or of another shape, or no number, or there for no reason.
    """
    noted = artifact.facts.get("exits")
    if not isinstance(noted, Mapping):
        raise damaged(artifact, "it says nothing of its exits")
    tensors: dict[int, dict[str, NDArray[Any]]] = {layer: {} for layer in layers_of(artifact)}
    if not tensors or noted.keys() != set(map(str, tensors)):
        raise damaged(artifact, f"it speaks of exits {_listed(noted)} and holds {_listed(tensors)}")
    for layer, name, value in _named(artifact):
        tensors[layer][name] = value
    heads = {}
    for layer, found in tensors.items():
        facts, reason = noted[str(layer)], _lacking(layer, found, config, weights)
        if reason is None and not isinstance(facts, Mapping):
            reason = f"it says nothing of exit {layer}"
        if reason is not None:
            raise damaged(artifact, reason)
        heads[layer] = StoredHead({name: np.ascontiguousarray(each, np.float32) for name, each in found.items()}, facts)
    return StoredHeads(head_tokens(artifact, config), heads)


def foresight_of(artifact: Artifact, head: StoredHead) -> Foresight:
    """What ``head`` expects a verdict to be.

    Raises:
        ModelDamaged: it has no calibration, or none that can be.
        UsageError: it was calibrated by a version that went by other features.
    """
    cure = f"calibrate it again with `foredraft train calibrate --heads {artifact.path}`"
    try:
        return Foresight.of(head.facts.get("foresight"))
    except ModelDamaged as error:
        raise damaged(artifact, error, cure) from None
    except UsageError as error:
        raise UsageError(f"{artifact.path} does not fit this version ({error}); {cure}.") from None


def head_tokens(artifact: Artifact, config: ModelConfig, cure: str = _CURE) -> NDArray[np.int64]:
    """``head.tokens`` of any artifact for a target of this configuration.

    Raises:
        ModelDamaged: they are missing, or not ascending ids of the target.
    """
    tokens = artifact.tensors.get("head.tokens")
    if tokens is None:
        raise damaged(artifact, "it lacks head.tokens", cure)
    if tokens.ndim != 1 or not len(tokens) or not np.issubdtype(tokens.dtype, np.integer):
        raise damaged(artifact, "head.tokens is no list of ids", cure)
    tokens = tokens.astype(np.int64)
    if (np.diff(tokens) <= 0).any() or tokens[0] < 0 or tokens[-1] >= config.vocabulary:
        raise damaged(artifact, f"head.tokens are not ascending ids from 0 to {config.vocabulary - 1}", cure)
    return tokens


def _named(artifact: Artifact) -> Iterator[tuple[int, str, NDArray[Any]]]:
    """Layer, name and value of each tensor of a head."""
    for name, value in artifact.tensors.items():
        if name.split(".")[0] == "exits":
            match = _TENSOR.fullmatch(name)
            if match is None:
                raise damaged(artifact, f"it has a tensor {name!r}, which names no layer")
            yield int(match[1]), match[2], value


def _lacking(
    layer: int, found: Mapping[str, NDArray[Any]], config: ModelConfig, weights: Mapping[str, object]
) -> str | None:
    """Why these are no head after ``layer`` layers; ``None`` if they are."""
    if f"layers.{layer}.attn_norm.weight" not in weights:
        return f"it has a head after layer {layer}, where the target has no other"
    wanted = _shapes(layer, config, weights, attends=any(name.startswith("attn") for name in found))
    for name, shape in wanted.items():
        if name not in found:
            return f"it lacks exits.{layer}.{name}"
        if found[name].shape != shape:
            return f"exits.{layer}.{name} has shape {list(found[name].shape)}, expected {list(shape)}"
        if not np.isfinite(found[name]).all():
            return f"exits.{layer}.{name} has what is no number"
    strange = found.keys() - wanted.keys()
    return f"it has a tensor 'exits.{layer}.{min(strange)}', which no head has" if strange else None


def _shapes(
    layer: int, config: ModelConfig, weights: Mapping[str, object], attends: bool
) -> dict[str, tuple[int, ...]]:
    hidden, feed, queries = config.hidden, config.feed_forward, config.heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "mlp_norm.weight": (hidden,),
        "mlp.gate.weight": (feed, hidden),
        "mlp.up.weight": (feed, hidden),
        "mlp.down.weight": (hidden, feed),
        "map.weight": (hidden, hidden),
        "norm.weight": (hidden,),
    }
    if attends:
        shapes |= {
            "attn_norm.weight": (hidden,),
            "attn.q.weight": (queries, hidden),
            "attn.o.weight": (hidden, queries),
        }
        optional = {"attn.q.bias": (queries,), "attn.o.bias": (hidden,), "attn.q_norm.weight": (config.head_dim,)}
        shapes |= {name: shape for name, shape in optional.items() if f"layers.{layer}.{name}" in weights}
    return shapes


def _listed(layers: Mapping[Any, object]) -> str:
    return ", ".join(map(str, layers)) or "none"
