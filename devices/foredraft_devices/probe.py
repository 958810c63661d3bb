"""Which device this is: what the firmware and the kernel tell, nothing assumed."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from .profiles import Profile, profiles

__all__ = ["Device", "probe"]

_MODEL_FILES = ("proc/device-tree/model", "sys/class/dmi/id/product_name")


@dataclass(frozen=True, slots=True)
class Device:
    """This machine."""

    model: str
    """As the firmware says it; empty if it says nothing."""
    architecture: str
    """Such as ``aarch64``."""
    cores: int
    """That this process may use."""
    memory_gb: float
    profile: Profile | None
    """The known kind of device it is, if any."""

    @property
    def name(self) -> str:
        """What to call it to a server: the profile's name, else the architecture."""
        return self.profile.name if self.profile else self.architecture


def probe(root: Path = Path("/")) -> Device:
    """Look at this machine.

    Args:
        root: of the file system to read, for tests.
    """
    model = next((text for name in _MODEL_FILES if (text := _read(root / name))), "")
    known = [profile for profile in profiles() if any(mark in model.lower() for mark in profile.recognised_by)]
    return Device(model, platform.machine(), _cores(), _memory_gb(root), known[0] if known else None)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().rstrip(b"\0\n ").decode("utf-8", "replace")
    except OSError:
        return ""


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb(root: Path) -> float:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) / 1e6, 1)
    return 0.0
