"""A GGUF file, opened once: its metadata and its tensors, for the configuration, the weights and the tokenizer alike.

The header is read here, because the reader of the ``gguf`` package spends five seconds on the vocabulary of a small
model (two numpy views a token) where this one needs a fifth of one; every program that opens a model would wait for
that. The element types and the dequantisation are the package's.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A file is magic, version, counts, metadata, tensor
descriptions, then the tensors, each at a multiple of the alignment.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BackendMissing, ModelDamaged, ModelNotFound, ModelUnsupported

__all__ = ["GgufFile"]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""GGUF's value types as those of :mod:`struct`; 8 is a string, 9 an array."""
_STRING, _ARRAY = 8, 9
_ARRAYS_DEEP = 4
"""Arrays within arrays are allowed; nobody writes them, and a damaged file must not exhaust the stack."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    shape: tuple[int, ...]
    """In numpy order."""
    kind: str
    offset: int
    """From the beginning of the file, in bytes."""
    bytes: int


class GgufFile:
    """A memory-mapped GGUF file; nothing but the header is read until asked for.

    Raises:
        ModelNotFound: there is no such file.
        ModelDamaged: the file is truncated or no GGUF file.
        ModelUnsupported: it is of a version or has element types that this version does not read.
        BackendMissing: the ``gguf`` package is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        except FileNotFoundError as error:
            raise ModelNotFound(f"{path}: no such file; check the path.") from error
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise self.damaged(str(error)) from error
        header = _Header(self._bytes.data)
        try:
            header.read_preamble()
            self._values = header.read_metadata()
            self._tensors = header.read_tensors(int(self._values.get("general.alignment", 32)), path)
        except (struct.error, ValueError, TypeError, OverflowError) as error:
            raise self.damaged(" ".join(str(error).split())) from error

    def damaged(self, reason: str) -> ModelDamaged:
        """The error for a file that is not what it claims to be."""
        return ModelDamaged(f"{self.path} is damaged or incomplete ({reason}); delete it and fetch it again.")

    # --- metadata -----------------------------------------------------------------------------------------------------

    @cached_property
    def architecture(self) -> str:
        """``general.architecture``: the prefix of the model's own keys, such as ``llama`` or ``qwen2``."""
        name = self.get("general.architecture")
        if not isinstance(name, str):
            raise self.damaged("no general.architecture")
        return name

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value as a Python value (number, string, bool or list), or ``default``."""
        return self._values.get(key, default)

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of all metadata values, in the order of the file."""
        return tuple(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    # --- tensors ------------------------------------------------------------------------------------------------------

    @property
    def tensors(self) -> frozenset[str]:
        """Names of the tensors in the file."""
        return frozenset(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape in numpy order, ``[out, in]`` for matrices (GGUF writes it the other way round)."""
        return self._tensors[name].shape

    def kind(self, name: str) -> str:
        """Element type: ``F32``, ``BF16``, ``Q4_1``, ``Q6_K``…"""
        return self._tensors[name].kind

    def bytes(self, name: str) -> int:
        """Size of the tensor in the file, in bytes."""
        return self._tensors[name].bytes

    def read(self, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """One tensor, dequantised: a fresh float32 array of :meth:`shape`."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        tensor = self._tensors[name]
        rows = prod(tensor.shape[:-1])
        stored = self._bytes[tensor.offset : tensor.offset + tensor.bytes].reshape(rows, -1)
        if tensor.kind in ("F32", "F16"):  # dequantize wants these with their own dtype
            values = stored.view("<f4" if tensor.kind == "F32" else "<f2")
        else:
            try:
                values = dequantize(stored, GGMLQuantizationType[tensor.kind])
            except NotImplementedError as error:
                raise ModelUnsupported(
                    f"{self.path}: tensor {name} is quantised as {tensor.kind}, which the gguf package cannot decode; "
                    "take a file with another quantisation, such as Q4_K_M or Q8_0."
                ) from error
        return np.array(values, dtype=np.float32).reshape(tensor.shape)


class _Header:
    """A cursor over the bytes of the header; every step raises ``struct.error`` or ``ValueError`` beyond the end."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def read_preamble(self) -> None:
        magic, version, self._tensor_count, self._value_count = self._unpack("4sIQQ")
        if magic != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        if version not in (2, 3):
            raise ValueError(f"GGUF version {version}, only 2 and 3 in little-endian order are read")

    def read_metadata(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for _ in range(self._value_count):
            key = self._string()
            (kind,) = self._unpack("I")
            values[key] = self._value(kind)
        return values

    def read_tensors(self, alignment: int, path: Path) -> dict[str, _Tensor]:
        try:
            from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        except ImportError as error:
            raise BackendMissing(
                "Reading GGUF files needs the package gguf: pip install 'foredraft[models]'."
            ) from error
        described = []
        for _ in range(self._tensor_count):
            name = self._string()
            (dimensions,) = self._unpack("I")
            if not 1 <= dimensions <= 4:
                raise ValueError(f"tensor {name} has {dimensions} dimensions")
            *sizes, number, offset = self._unpack(f"{dimensions}QIQ")
            try:
                kind = GGMLQuantizationType(number)
            except ValueError as error:
                raise ModelUnsupported(
                    f"{path}: tensor {name} has element type {number}, unknown here; update the package gguf."
                ) from error
            described.append((name, tuple(reversed(sizes)), kind, offset))
        if alignment < 1:
            raise ValueError(f"an alignment of {alignment}")
        start = -(-self._at // alignment) * alignment
        tensors: dict[str, _Tensor] = {}
        for name, shape, kind, offset in described:
            block, block_bytes = GGML_QUANT_SIZES[kind]
            if min(shape) < 1 or shape[-1] % block:
                raise ValueError(f"tensor {name} has shape {list(shape)}")
            size = prod(shape) // block * block_bytes
            if start + offset + size > len(self._data):
                raise ValueError(f"it ends within tensor {name}")
            tensors[name] = _Tensor(shape, kind.name, start + offset, size)
        return tensors

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self._data, self._at)
        self._at += struct.calcsize("<" + layout)
        return values

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        end = self._at + length
        if end > len(self._data):
            raise ValueError("it ends within a string")
        text = bytes(self._data[self._at : end]).decode("utf-8")
        self._at = end
        return text

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            item, count = self._unpack("IQ")
            if count > len(self._data) or depth == _ARRAYS_DEEP:
                raise ValueError("it ends within an array")
            if item in _SCALARS:
                return list(self._unpack(f"{count}{_SCALARS[item]}"))
            return [self._value(item, depth + 1) for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"value type {kind}")
        return self._unpack(_SCALARS[kind])[0]
