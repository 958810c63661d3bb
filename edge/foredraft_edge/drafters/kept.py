"""What drafts, and where the files made of it are kept: made once, and anew when what they came of changes"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.errors import ModelDamaged, UsageError
from foredraft_shared.models import Model, ModelConfig
from foredraft_shared.models.artifacts import Artifact
from foredraft_shared.models.cache import cache_directory, drop_unused, used

__all__ = ["DraftWeights", "first_layers", "head_tokens", "kept", "trained"]


@dataclass(frozen=True, slots=True)
class DraftWeights:
    """What drafts: a model, some of it, or what was trained for it."""

    name: str
    """Begins the names of files made of it."""
    sources: tuple[Path, ...]
    """The files it comes from."""
    config: ModelConfig
    weights: Mapping[str, NDArray[np.float32]]
    """By canonical name. With ``head.tokens`` ``[head]`` (whole numbers, ascending) the head has a row for each of these ids
    only, and the draft proposes no others."""
    fingerprint: str
    """Of the tokenizer it speaks."""


def first_layers(model: Model, layers: int | None = None) -> DraftWeights:
    """The first so many layers of ``model`` under its own final norm and head; all of it by default.

    Raises:
        UsageError: it has not so many.
    """
    config = model.config
    if layers is not None and not 1 <= layers <= config.layers:
        raise UsageError(f"{layers} layers of {config.layers}: ask for 1 to {config.layers}.")
    name = model.path.stem + (f"-first-{layers}" if layers else "")
    return DraftWeights(
        name, (model.path,), replace(config, layers=layers or config.layers), model.weights, model.tokenizer.fingerprint
    )


def trained(model: Model, artifact: Artifact) -> DraftWeights:
    """A draft trained for ``model``; what the artifact does not bring is the target's own: the embedding always, and layers that
    were not trained.

    Raises:
        ModelDamaged: the artifact lacks a tensor, or a fact about its shape.
    """
    layers = artifact.facts.get("layers")
    if not isinstance(layers, int) or "head.tokens" not in artifact.tensors:
        raise ModelDamaged(f"{artifact.path} does not say how many layers or which tokens it has; train it again.")
    weights = ChainMap[str, NDArray[np.float32]](dict(artifact.tensors), model.weights)  # type: ignore[arg-type]
    return DraftWeights(
        f"{model.path.stem}-{artifact.path.stem}",
        (model.path, artifact.path),
        replace(model.config, layers=layers, tied=False),
        weights,
        model.tokenizer.fingerprint,
    )


def head_tokens(config: ModelConfig, weights: Mapping[str, NDArray[np.float32]], rows: int) -> NDArray[np.int32] | None:
    """The ids that the head's ``rows`` rows stand for; ``None`` where row i is id i.

    Raises:
        ModelDamaged: ``head.tokens`` is not what :class:`DraftWeights` says.
    """
    if "head.tokens" not in weights:
        return None
    tokens = np.asarray(weights["head.tokens"]).astype(np.int32)
    if len(tokens) != rows or not (np.diff(tokens) > 0).all() or tokens[-1] >= config.vocabulary:
        raise ModelDamaged("head.tokens must be ascending target ids, one for each row of the head; train it again.")
    return tokens


def kept(
    draft: DraftWeights, form: str, suffix: str, make: Callable[[Path], object], *, folder: Path | None = None
) -> Path:
    """The file that ``make`` writes of ``draft``: made at the first call, found in the cache after. When one is made there,
    others that nobody has used for two months are removed.

    Args:
        form: whatever else the file depends on; its first word is part of the file's name.
        folder: of the cache; ``drafts`` in the models' cache by default.

    Raises:
        UsageError: it cannot be written.
    """
    own = folder is None  # nothing is removed from a folder that somebody named
    folder = folder or cache_directory() / "drafts"
    parts = [draft.name, form, *map(_digest, draft.sources)]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    path = folder / f"{draft.name}-{form.split()[0]}-{key}{suffix}"
    if not path.exists():
        try:
            make(path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(
                f"the draft cannot be written to {folder} ({reason}); make room, or name another folder in FOREDRAFT_CACHE."
            ) from error
        if own:
            drop_unused(folder, suffix)
    used(path)
    return path


def _digest(path: Path) -> str:
    """Hash of a model's files: the GGUF file, or whatever of a folder says what the model is."""
    files = [path] if path.is_file() else sorted([*path.glob("*.json"), *path.glob("*.safetensors")])
    whole = hashlib.blake2b(digest_size=16)
    for file in files:
        whole.update(file.name.encode() + b"\0" + str(file.stat().st_size).encode() + b"\0")
        with file.open("rb") as stream:
            while part := stream.read(1 << 22):
                whole.update(part)
    return whole.hexdigest()
