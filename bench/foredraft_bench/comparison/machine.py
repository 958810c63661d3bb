"""On what something was measured, in a few lines."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

from foredraft_devices import probe

__all__ = ["describe_machine"]

_PACKAGES = ("torch", "onnxruntime", "numpy", "pyzmq", "transformers", "llama-cpp-python")


def describe_machine(root: Path = Path("/")) -> dict[str, str]:
    """Processor, memory, system and the versions of what computes; without what cannot be told.

    Args:
        root: of the file system to read, for tests.
    """
    told = {"device": probe().name, "processor": _processor(root)}
    told["cores"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    if memory:
        told["memory"] = f"{int(memory[1]) / 2**20:.1f} GiB"
    told["system"] = f"{platform.system()} {platform.release()}"
    told["python"] = platform.python_version()
    for package in _PACKAGES:
        try:
            told[package] = installed(package)
        except PackageNotFoundError:
            continue
    if hasattr(os, "getloadavg"):
        told["load before"] = f"{os.getloadavg()[0]:.2f} processes"
    return {name: value for name, value in told.items() if value}


def _processor(root: Path) -> str:
    model = re.search(r"^model name\s*:\s*(.+)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
    return model[1].strip() if model else platform.processor() or platform.machine()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
