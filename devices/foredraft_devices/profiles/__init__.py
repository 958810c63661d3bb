"""Profiles of known devices, one TOML file each beside this one.

To add a device, write a file like its neighbours; nothing else has to be told.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Profile", "profiles"]


@dataclass(frozen=True, slots=True)
class Profile:
    """A known kind of device."""

    name: str
    """As devices call themselves to a server: lower case, dashes."""
    title: str
    recognised_by: tuple[str, ...]
    """Any of these in the model line that the firmware gives (device tree or DMI), whatever the case."""
    cores: int
    memory_gb: float
    power_w: tuple[float, float]
    """Least and greatest power budget that can be set, watts."""
    accelerator: str
    """What besides the processor can run a draft; empty if nothing."""


@cache
def profiles() -> tuple[Profile, ...]:
    """All profiles, by name."""
    found = []
    for entry in files(__package__).iterdir():
        if entry.name.endswith(".toml"):
            facts = tomllib.loads(entry.read_text("utf-8"))
            low, high = facts.pop("power_w")
            recognised_by = tuple(facts.pop("recognised_by"))
            found.append(
                Profile(entry.name.removesuffix(".toml"), power_w=(low, high), recognised_by=recognised_by, **facts)
            )
    return tuple(sorted(found, key=lambda profile: profile.name))
