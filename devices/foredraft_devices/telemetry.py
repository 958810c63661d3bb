"""What the device's own sensors say, as the Linux kernel shows them: temperatures and, where there is a meter, power."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Reading", "read_sensors"]


@dataclass(frozen=True, slots=True)
class Reading:
    """One sensor at one moment."""

    sensor: str
    value: float
    unit: str
    """``C`` or ``W``."""


def read_sensors(root: Path = Path("/")) -> tuple[Reading, ...]:
    """All sensors that can be read now; empty where the kernel shows none, which is not an error.

    Power comes from the hwmon class: either a meter's own ``power*_input`` (microwatts), or current times voltage of the
    same channel (mA, mV), which is what the INA3221 of the Jetsons gives.

    Args:
        root: of the file system to read, for tests.
    """
    readings = []
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = _number(zone / "temp")
        if value is not None:
            readings.append(Reading(_text(zone / "type") or zone.name, value / 1000.0, "C"))
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = _text(chip / "name") or chip.name
        for meter in sorted(chip.glob("power*_input")):
            value = _number(meter)
            if value is not None:
                readings.append(Reading(f"{name} {meter.name.removesuffix('_input')}", value / 1e6, "W"))
        for current in sorted(chip.glob("curr*_input")):
            channel = current.name.removeprefix("curr").removesuffix("_input")
            milliamperes, millivolts = _number(current), _number(chip / f"in{channel}_input")
            if milliamperes is not None and millivolts is not None:
                rail = _text(chip / f"in{channel}_label") or f"{name} {channel}"
                readings.append(Reading(rail, milliamperes * millivolts / 1e6, "W"))
    return tuple(readings)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None
