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
from functools import cache
from pathlib import Path

import structlog

from foredraft_shared.models.cache import cache_directory

__all__ = ["Layer", "Product", "Rows", "Sizes", "library"]

_FOLDER = Path(__file__).parent
_SOURCES = tuple(_FOLDER / name for name in ("kernels.cpp", "attention.h", "products.h"))
_INSTRUCTIONS = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "fma")
# These and no others: a virtual machine may hide some of what the compiler believes that its processor has.
_TARGET = tuple("-m" + name.replace("_", "") for name in _INSTRUCTIONS)
# Without contraction: a product and a sum are one rounding where the source says so, or two, but never as the compiler likes.
_FLAGS = ("-O3", *_TARGET, "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC", "-std=c++17")
_COMPILE_SECONDS = 120

_log = structlog.get_logger("foredraft.kernels")


class Product(ctypes.Structure):
    """See ``struct Product`` in the source; and so on."""

    _fields_ = [
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


@cache
def library() -> ctypes.CDLL | None:
    """The kernels for this processor; ``None`` where they cannot be had, and the log says why."""
    instructions = _processor()
    missing = [name for name in _INSTRUCTIONS if name not in instructions]
    if missing:
        _log.info("passes in torch: this processor lacks what the compiled kernels need", missing=missing)
        return None
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "c++", "clang++")), None)
    if compiler is None:
        _log.warning("passes in torch, slower: there is no C++ compiler for the compiled kernels; install g++")
        return None
    try:
        return _declared(ctypes.CDLL(str(_built(compiler, instructions))))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        _log.warning("passes in torch, slower: the kernels could not be compiled", compiler=compiler, error=said[-500:])
        return None


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
