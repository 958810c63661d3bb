"""The compiled kernels: built once for this processor, kept in the cache folder, loaded.

Built by the machine's own C++ compiler in two or three seconds, for the best set of vector instructions it and the processor
know; a library of another source, compiler or processor has another name. One that nobody has used for two months is removed.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..errors import UsageError
from ..models.cache import cache_directory, drop_unused, used

__all__ = [
    "Exit",
    "Kind",
    "Layer",
    "Missing",
    "Product",
    "Rows",
    "Sizes",
    "instruction_set",
    "library",
    "missing",
    "possible",
]

_FOLDER = Path(__file__).parent
_PARTS = ("attention", "blocks", "common", "greatest", "passes", "products", "tiles", "vectors")
_SOURCES = (_FOLDER / "kernels.cpp", *(_FOLDER / f"{name}.h" for name in _PARTS))


class _Set(NamedTuple):
    instructions: tuple[str, ...]
    """What a processor must have, by the names Linux gives them."""
    flags: tuple[str, ...]


def _x86(*instructions: str) -> _Set:
    # These and no others: a virtual machine may hide some of what the compiler believes that its processor has.
    return _Set(instructions, tuple("-m" + name.replace("amx_", "amx-").replace("_", "") for name in instructions))


_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "fma")
_SETS = {
    "amx": _x86(*_AVX512, "amx_tile", "amx_bf16", "amx_int8"),
    "avx512": _x86(*_AVX512),
    "avxvnni": _x86("avx2", "fma", "f16c", "avx_vnni"),
    "avx2": _x86("avx2", "fma", "f16c"),
    "dotprod": _Set(("asimddp",), ("-march=armv8.2-a+dotprod",)),
    "neon": _Set(("asimd",), ("-march=armv8-a",)),
    "generic": _Set((), ("-O1", "-DFOREDRAFT_GENERIC")),  # -O3 compiles for 11 s
}
_WORTH_IT = tuple(name for name in _SETS if name != "generic")
"""Best first. The other is for tests: any processor has it, but is quicker without."""
_NONE = "none"
_ASKED = "FOREDRAFT_KERNELS"

# Without contraction: a product and a sum are one rounding where the source says so, or two, but never as the compiler likes.
_FLAGS = ("-O3", "-ffp-contract=off", "-shared", "-fPIC", "-std=c++17")
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


class Exit(ctypes.Structure):
    _fields_ = [
        ("layer", Layer),
        ("norm", ctypes.c_void_p),
        ("map", Product),
        ("rows", Product),
        ("tokens", ctypes.c_void_p),
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


def library(wanted: str | None = None) -> ctypes.CDLL | None:
    """The kernels; ``None`` where they cannot be had, for the reason that :func:`missing` tells.

    Args:
        wanted: the set of instructions; by default the best that this processor has, or the one that ``FOREDRAFT_KERNELS``
            names. What they compute has the same bits in all, but for passes in bfloat16 in ``amx``.

    Raises:
        UsageError: ``FOREDRAFT_KERNELS`` names none.
    """
    found = _found(wanted, _asked())
    return None if isinstance(found, Missing) else found.kernels


def missing(wanted: str | None = None) -> Missing | None:
    """Why :func:`library` gives none; ``None`` if it does."""
    found = _found(wanted, _asked())
    return found if isinstance(found, Missing) else None


def instruction_set() -> str | Missing:
    """The set that :func:`library` is compiled for, or why there is none."""
    found = _found(None, _asked())
    return found if isinstance(found, Missing) else found.name


def possible() -> tuple[str, ...]:
    """The sets that this processor has and that are worth it, best first."""
    instructions = _processor()
    return tuple(name for name in _WORTH_IT if instructions.issuperset(_SETS[name].instructions))


class _Found(NamedTuple):
    name: str
    kernels: ctypes.CDLL


def _asked() -> str | None:
    asked = os.environ.get(_ASKED) or None
    if asked not in (None, _NONE, *_SETS):
        raise UsageError(f"{_ASKED}={asked} is no set of instructions; write one of {', '.join((*_SETS, _NONE))}.")
    return asked


@cache
def _found(wanted: str | None, asked: str | None) -> _Found | Missing:
    if asked and wanted not in (None, asked):
        return Missing(f"{_ASKED} is {asked}, and these need {wanted}", f"unset {_ASKED}")
    if asked == _NONE:
        return Missing(f"{_ASKED} is {asked}", f"unset {_ASKED}")
    named = wanted or asked
    instructions = _processor()
    fitting = (named,) if named else possible()
    if named and (lacking := [each for each in _SETS[named].instructions if each not in instructions]):
        return Missing(f"this processor lacks {', '.join(lacking)}", "" if wanted else f"unset {_ASKED}")
    if not fitting:
        return Missing(f"this processor has none of {', '.join(_WORTH_IT)}", "")
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "c++", "clang++")), None)
    if compiler is None:
        return Missing("there is no C++ compiler", "install g++")
    failures = []
    for name in fitting:  # an old compiler may not know the best
        try:
            return _Found(name, _declared(ctypes.CDLL(str(_built(compiler, name, instructions)))))
        except (OSError, subprocess.SubprocessError) as error:
            failures.append(" ".join((getattr(error, "stderr", None) or str(error)).split())[-300:])
    return Missing(f"{compiler} failed: {failures[0]}", "name another compiler in CXX, or install a newer g++")


def _processor() -> frozenset[str]:
    """Its instruction sets, by the names Linux gives them; none where they cannot be told."""
    try:
        if platform.system() != "Darwin":
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            return frozenset(
                next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), ())
            )
        if platform.machine() == "arm64":  # all that Apple has built
            return frozenset(("asimd", "asimddp"))
        command = ("sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features")
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        return frozenset(told.lower().split())
    except (OSError, subprocess.SubprocessError):
        return frozenset()


def _built(compiler: str, name: str, instructions: frozenset[str]) -> Path:
    """The library's file.

    Raises:
        OSError, subprocess.SubprocessError: it could not be compiled or written.
    """
    threads = () if platform.system() == "Darwin" else ("-fopenmp",)  # Apple's clang has none: one thread
    flags = (*_FLAGS, *threads, *_SETS[name].flags)
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    parts = (*(source.read_text() for source in _SOURCES), " ".join(flags), version, " ".join(sorted(instructions)))
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    folder = cache_directory() / "kernels"
    file = folder / f"{name}-{digest}.so"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            made = Path(aside) / file.name
            command = [compiler, *flags, str(_SOURCES[0]), "-o", str(made)]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=_COMPILE_SECONDS)
            made.replace(file)
        drop_unused(folder, file.suffix)
    used(file)
    return file


def _declared(kernels: ctypes.CDLL) -> ctypes.CDLL:
    """With the types of its functions' arguments; tensors are given as addresses.

    Raises:
        OSError: the operating system does not let this process use its instructions.
    """
    kernels.foredraft_begin.restype = ctypes.c_int64
    if kernels.foredraft_begin():
        raise OSError("the operating system keeps these instructions to itself")
    address, size = ctypes.c_void_p, ctypes.c_int64
    product, layer, head, sizes, rows = map(ctypes.POINTER, (Product, Layer, Exit, Sizes, Rows))
    for function, arguments in (
        (kernels.foredraft_product, (product, address, ctypes.c_float, address, size, address, size)),
        (kernels.foredraft_project, (layer, sizes, address, address, size, address, address, size)),
        (kernels.foredraft_attend, (sizes, rows, address, address, address, address, size)),
        (kernels.foredraft_finish, (layer, sizes, address, address, size, size)),
        (
            kernels.foredraft_exit,
            (head, sizes, rows, address, address, address, size, size, address, address, address, address, size),
        ),
        (kernels.foredraft_layers, (layer, size, sizes, rows, address, size, address, size)),
    ):
        function.argtypes, function.restype = arguments, None
    return kernels
