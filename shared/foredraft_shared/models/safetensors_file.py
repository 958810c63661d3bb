"""Tensors of one or several safetensors files, read one at a time.

The header is checked by the ``safetensors`` package (bounds, overlaps, truncation). The values are taken from the
mapped file by hand, because its numpy face cannot give bfloat16 without a further package.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BackendMissing, ModelDamaged, ModelNotFound, ModelUnsupported

__all__ = ["SafetensorsFiles", "StoredTensor"]

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file, not read yet."""

    shape: tuple[int, ...]
    kind: str
    """``F32``, ``F16`` or ``BF16``."""
    bytes: int
    read: Callable[[], np.ndarray[Any, np.dtype[np.float32]]]
    """Gives a fresh float32 array of ``shape``."""


class SafetensorsFiles:
    """The tensors of a checkpoint: ``model.safetensors``, or the shards its index names.

    Raises:
        ModelNotFound: the folder holds no safetensors.
        ModelDamaged: a file is truncated, missing or no safetensors file.
        ModelUnsupported: a tensor is of another type than float32, float16 or bfloat16.
    """

    def __init__(self, folder: Path) -> None:
        self._tensors: dict[str, StoredTensor] = {}
        for path in _files(folder):
            self._add(path)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def __getitem__(self, name: str) -> StoredTensor:
        return self._tensors[name]

    def _add(self, path: Path) -> None:
        header, start = _header(path)
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            kind, shape = entry["dtype"], tuple(entry["shape"])
            if kind not in _ITEM_BYTES:
                raise ModelUnsupported(
                    f"{path}: tensor {name} is of type {kind}; only F32, F16 and BF16 are read. "
                    "Take an unquantised checkpoint, or a GGUF file."
                )
            read = _reader(path, start + entry["data_offsets"][0], kind, shape)
            self._tensors[name] = StoredTensor(shape, kind, prod(shape) * _ITEM_BYTES[kind], read)


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
            paths = [folder / Path(str(shard)).name for shard in shards]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelDamaged(f"{index} is damaged; fetch the model again.") from error
        for path in paths:
            if not path.is_file():
                raise ModelDamaged(f"{folder} lacks {path.name}, which its index names; fetch the model again, whole.")
        return paths
    if any(folder.glob("*.bin")):
        raise ModelUnsupported(
            f"{folder} holds pickled weights (*.bin), which can run code when read; take a checkpoint in safetensors."
        )
    raise ModelNotFound(f"{folder} holds no model.safetensors; give a folder with a whole checkpoint, or a GGUF file.")


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a file, checked, and where the tensors' bytes begin."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise BackendMissing(
            "Reading safetensors needs the package safetensors: pip install 'foredraft[models]'."
        ) from error
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return json.loads(file.read(length)), 8 + length
    except (SafetensorError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ModelDamaged(f"{path} is damaged or incomplete ({reason}); delete it and fetch it again.") from error


def _reader(
    path: Path, offset: int, kind: str, shape: tuple[int, ...]
) -> Callable[[], np.ndarray[Any, np.dtype[np.float32]]]:
    def read() -> np.ndarray[Any, np.dtype[np.float32]]:
        dtype = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[kind]
        try:
            stored = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
        except (OSError, ValueError) as error:
            raise ModelDamaged(f"{path} has shrunk or gone since it was opened; fetch the model again.") from error
        if kind == "BF16":  # the upper half of a float32
            return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return np.array(stored, dtype=np.float32)

    return read
