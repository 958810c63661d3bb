"""What we train for a target and ship: drafts and exit heads, one safetensors file each.

Matrices are stored as int8 with a float16 scale for each row, or in 4 bits as GGUF's Q4_1 has them (blocks of 32 with a float16
scale and least value), everything else as float16; whole numbers as int32. The metadata block says for which target the file was
made and how. A draft has no embedding of its own: it uses the target's, which a device that runs it therefore needs (and which
a file of 30 MB could not hold).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendMissing, ModelDamaged, UsageError, VocabularyMismatch
from .opened import Model

__all__ = [
    "PROMPTS",
    "Artifact",
    "artifact_kind",
    "load_artifact",
    "prompt_hashes",
    "prompts_tensor",
    "revise_artifact",
    "save_artifact",
    "shipped",
    "target_fingerprint",
]

PROMPTS = "data.prompts"
"""The tensor that names the prompts an artifact was trained on, [prompts, 2] int32."""
_FORMAT = 2
_FORMATS = (1, _FORMAT)
"""That this version reads; the first knew no 4 bits."""
_BLOCK = 32
_KEY = "foredraft"
_SCALE = ".scale"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A trained draft or set of exit heads."""

    path: Path
    kind: str
    """``draft`` or ``exits``."""
    target: str
    """Name of the model it was trained for."""
    target_fingerprint: str
    """Of that model's weights and tokenizer; see :func:`target_fingerprint`."""
    facts: Mapping[str, Any]
    """Layers, data, command, metrics: whatever its maker noted."""
    tensors: Mapping[str, NDArray[Any]]
    """float32 arrays (int32 for whole numbers), ``[out, in]`` for matrices."""

    def check(self, model: Model) -> None:
        """Make sure that it belongs to ``model``.

        Raises:
            VocabularyMismatch: it was trained for another model, or for other weights of the same name.
        """
        if self.target_fingerprint != target_fingerprint(model):
            raise VocabularyMismatch(
                f"{self.path.name} was trained for {self.target} ({self.target_fingerprint[:8]}), not for "
                f"{Path(model.name).name} ({target_fingerprint(model)[:8]}); train one for this model."
            )


def target_fingerprint(model: Model) -> str:
    """Names a target: 32 hexadecimal digits over its shape, its tokenizer and a sample of its weights.

    Not its arithmetic: heads and drafts are taught the function that the weights are, and serve as well where that is rounded
    in another way. What they foresee is never more than a guess.
    """
    digest = hashlib.blake2b(digest_size=16)
    config = model.config
    digest.update(f"{config} {model.tokenizer.fingerprint}".encode())
    for name in ("norm.weight", "layers.0.attn_norm.weight", f"layers.{config.layers - 1}.attn.k.weight"):
        digest.update(np.ascontiguousarray(model.weights[name], "<f4").tobytes())
    return digest.hexdigest()


def shipped(model: Model, kind: str) -> Path | None:
    """The file of this kind that comes with foredraft for ``model``; ``None`` if there is none.

    Found by the target's fingerprint, so that the same model under another name or path has it, too.
    """
    wanted = None
    for folder in files("foredraft_shared").joinpath("artifacts").iterdir():
        path = Path(str(folder)) / f"{kind}.safetensors"
        if path.is_file():
            wanted = wanted or target_fingerprint(model)
            if _metadata(path).get("target_fingerprint") == wanted:
                return path
    return None


def save_artifact(
    path: Path,
    kind: str,
    model: Model,
    tensors: Mapping[str, NDArray[Any]],
    facts: Mapping[str, Any],
    *,
    four_bits: Collection[str] = (),
) -> None:
    """Write an artifact for ``model``, all of it or nothing.

    Args:
        tensors: float arrays; two-dimensional ones are quantised. Integer arrays are kept.
        four_bits: names of the matrices that are stored so; the others, and those whose width is no multiple of 32, in 8.

    Raises:
        UsageError: the file cannot be written.
        BackendMissing: 4 bits need the package gguf.
    """
    stored: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        if np.issubdtype(tensor.dtype, np.integer):
            stored[name] = tensor.astype(np.int32)
        elif tensor.ndim == 2 and name in four_bits and tensor.shape[1] % _BLOCK == 0:
            quants, q4_1 = _gguf()
            stored[name] = quants.quantize(np.ascontiguousarray(tensor, np.float32), q4_1)
        elif tensor.ndim == 2:
            scale = np.maximum(np.abs(tensor).max(axis=1, keepdims=True), 1e-8) / 127.0
            scale = scale.astype(np.float16).astype(np.float32)
            stored[name] = np.clip(np.rint(tensor / np.maximum(scale, 1e-8)), -127, 127).astype(np.int8)
            stored[name + _SCALE] = scale[:, 0].astype(np.float16)
        else:
            stored[name] = tensor.astype(np.float16)
    metadata = {
        "format": _FORMAT,
        "kind": kind,
        "target": Path(model.name).name,
        "target_fingerprint": target_fingerprint(model),
        "facts": dict(facts),
    }
    _write(path, stored, metadata, "make room, or name another file with --out")


def revise_artifact(artifact: Artifact, facts: Mapping[str, Any], numbers: Mapping[str, NDArray[np.int32]]) -> None:
    """Write a file again with other facts, all of it or nothing; what it stores of floats keeps every bit.

    Args:
        numbers: tensors of whole numbers that are added, or replace those of their names.

    Raises:
        UsageError: the file cannot be written, or says something else than when ``artifact`` was read.
    """
    from safetensors.numpy import load_file

    metadata = _metadata(artifact.path)
    if metadata.get("facts") != artifact.facts:
        raise UsageError(f"{artifact.path} was changed by somebody else meanwhile; try again.")
    stored = load_file(artifact.path) | dict(numbers)
    _write(artifact.path, stored, metadata | {"facts": dict(facts)}, "make room")


def _write(path: Path, stored: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any], cure: str) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(stored), partial, metadata={_KEY: json.dumps(metadata)})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot write {path} ({reason}); {cure}.") from None


def load_artifact(path: Path, kind: str) -> Artifact:
    """Read an artifact and dequantise it.

    Raises:
        ModelDamaged: it is no artifact, of another kind or format, or incomplete.
        BackendMissing: it holds matrices in 4 bits, and the package gguf is not installed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    metadata = _metadata(path)
    if metadata.get("kind") != kind:
        raise ModelDamaged(
            f"{path} holds {metadata.get('kind') or 'nothing of ours'} where {kind} is needed; name another file."
        )
    try:
        stored = load_file(path)
        tensors: dict[str, NDArray[Any]] = {}
        for name, value in stored.items():
            if name.endswith(_SCALE):
                continue
            if value.dtype == np.int8:
                scale = stored[name + _SCALE].astype(np.float32)
                if value.ndim != 2 or scale.shape != value.shape[:1] or not np.isfinite(scale).all():
                    raise ValueError(f"the scales of {name} are none")
                tensors[name] = value.astype(np.float32) * scale[:, None]
            elif value.dtype == np.uint8:
                quants, q4_1 = _gguf()
                tensors[name] = quants.dequantize(value, q4_1)
            else:
                tensors[name] = value if value.dtype == np.int32 else value.astype(np.float32)
    except (SafetensorError, KeyError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ModelDamaged(f"{path} cannot be read ({reason}); install foredraft again, or train it again.") from None
    facts = metadata.get("facts")
    names = metadata.get("target"), metadata.get("target_fingerprint")
    if not (isinstance(facts, dict) and all(isinstance(name, str) for name in names)):
        raise ModelDamaged(f"{path} does not say what it was made for; install foredraft again, or train it again.")
    return Artifact(path, kind, str(names[0]), str(names[1]), facts, tensors)


def artifact_kind(path: Path) -> str:
    """``draft`` or ``exits``; raises :class:`ModelDamaged` if it is no artifact."""
    return str(_metadata(path).get("kind"))


def prompts_tensor(hashes: Iterable[int]) -> NDArray[np.int32]:
    """64-bit hashes as :data:`PROMPTS` holds them, ascending."""
    return np.array(sorted(set(hashes)), "<u8").view("<i4").reshape(-1, 2)


def prompt_hashes(artifact: Artifact) -> set[int]:
    """Of the prompts that it was trained on; empty if its maker did not note them.

    Raises:
        ModelDamaged: the tensor is no such list.
    """
    stored = artifact.tensors.get(PROMPTS)
    if stored is not None and (stored.dtype != np.int32 or stored.shape[1:] != (2,)):
        raise ModelDamaged(f"{artifact.path} is damaged ({PROMPTS} is no list of prompts); train it again.")
    return set() if stored is None else set(np.ascontiguousarray(stored, "<i4").view("<u8").ravel().tolist())


def _metadata(path: Path) -> dict[str, Any]:
    """What the file says of itself.

    Raises:
        ModelDamaged: it is no artifact, or of a format this version does not read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata: dict[str, Any] = json.loads((file.metadata() or {})[_KEY])
        if not isinstance(metadata, dict):
            raise ValueError("its description is no table")
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ModelDamaged(f"{path} is no artifact of foredraft ({reason}); check the path.") from None
    if metadata.get("format") not in _FORMATS:
        raise ModelDamaged(
            f"{path} has format {metadata.get('format')}, and this version reads formats up to {_FORMAT}; train it again."
        )
    return metadata


def _gguf() -> tuple[Any, Any]:
    """gguf's functions of quantisation, and what it calls Q4_1."""
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        raise BackendMissing("A trained draft needs the package gguf: pip install 'foredraft[models]'.") from None
    return quants, GGMLQuantizationType.Q4_1
