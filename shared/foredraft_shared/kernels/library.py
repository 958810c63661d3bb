"""The compiled kernels: built once for this processor, kept in the cache folder, loaded.

Built by the machine's own C++ compiler in two or three seconds; a library of another source, compiler or processor has another
name.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

from ..models.cache import cache_directory

__all__ = ["Kind", "Layer", "Missing", "Product", "Rows", "Sizes", "library", "missing"]

_FOLDER = Path(__file__).parent
_SOURCES = tuple(_FOLDER / name for name in ("kernels.cpp", "attention.h", "blocks.h", "common.h", "products.h"))
_INSTRUCTIONS = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "fma")
# These and no others: a virtual machine may hide some of what the compiler believes that its processor has.
_TARGET = tuple("-m" + name.replace("_", "") for name in _INSTRUCTIONS)
# Without contraction: a product and a sum are one rounding where the source says so, or two, but never as the compiler likes.
_FLAGS = ("-O3", *_TARGET, "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC", "-std=c++17")
_COMPILE_SECONDS = 120


class Kind(IntEnum):
    """See ``enum Kind`` in the source; and so on."""

    BFLOAT16 = 0
    INT8 = 1
    BLOCKS_8 = 2
    BLOCKS_4 = 3


class Product(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
    ]


class Layer(ctypes.Structure):
    _fields_ = [
        ("attention_norm", ctypes.c_void_p),
        ("qkv", Product),
        ("query_key_norm", ctypes.c_void_p),
        ("output", Product),
        ("mlp_norm", ctypes.c_void_p),
        ("gate_up", Product),
        ("down", Product),
    ]


class Sizes(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("hidden", "heads", "kv_heads", "dim", "feed_forward", "window")),
        ("eps", ctypes.c_float),
    ]


class Rows(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_int64),
        ("positions", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("pages", ctypes.c_void_p),
        ("turns", ctypes.c_void_p),
        ("arena_pages", ctypes.c_int64),
    ]


@dataclass(frozen=True, slots=True)
class Missing:
    """Why there are no kernels."""

    reason: str
    cure: str
    """What would give them; empty where nothing would."""


def library() -> ctypes.CDLL | None:
    """The kernels for this processor; ``None`` where they cannot be had, for the reason that :func:`missing` tells."""
    found = _found()
    return None if isinstance(found, Missing) else found


def missing() -> Missing | None:
    """Why :func:`library` gives none; ``None`` if it does."""
    found = _found()
    return found if isinstance(found, Missing) else None


@cache
def _found() -> ctypes.CDLL | Missing:
    instructions = _processor()
    lacking = [name for name in _INSTRUCTIONS if name not in instructions]
    if lacking:
        return Missing(f"this processor lacks {', '.join(lacking)}", "")
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "c++", "clang++")), None)
    if compiler is None:
        return Missing("there is no C++ compiler", "install g++")
    try:
        return _declared(ctypes.CDLL(str(_built(compiler, instructions))))
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join((getattr(error, "stderr", None) or str(error)).split())
        return Missing(f"{compiler} failed: {said[-300:]}", "name another compiler in CXX, or install a newer g++")


def _processor() -> frozenset[str]:
    """Its instruction sets, by the names Linux gives them; none where there is no Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def _built(compiler: str, instructions: frozenset[str]) -> Path:
    """The library's file.

    Raises:
        OSError, subprocess.SubprocessError: it could not be compiled or written.
    """
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    parts = (*(source.read_text() for source in _SOURCES), " ".join(_FLAGS), version, " ".join(sorted(instructions)))
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    folder = cache_directory() / "kernels"
    file = folder / f"{name}.so"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            made = Path(aside) / file.name
            command = [compiler, *_FLAGS, str(_SOURCES[0]), "-o", str(made)]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=_COMPILE_SECONDS)
            made.replace(file)
    return file


def _declared(kernels: ctypes.CDLL) -> ctypes.CDLL:
    """With the types of its functions' arguments; tensors are given as addresses."""
    address, size = ctypes.c_void_p, ctypes.c_int64
    product, layer, sizes, rows = map(ctypes.POINTER, (Product, Layer, Sizes, Rows))
    for function, arguments in (
        (kernels.foredraft_product, (product, address, ctypes.c_float, address, size, address, size)),
        (kernels.foredraft_project, (layer, sizes, address, address, size, address, address, size)),
        (kernels.foredraft_attend, (sizes, rows, address, address, address, address, size)),
        (kernels.foredraft_finish, (layer, sizes, address, address, size, size)),
        (kernels.foredraft_layers, (layer, size, sizes, rows, address, size, address, size)),
    ):
        function.argtypes, function.restype = arguments, None
    return kernels
