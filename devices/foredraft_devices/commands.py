"""``foredraft devices``: known devices, and what this one is."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from .probe import probe
from .profiles import profiles
from .telemetry import read_sensors

__all__ = ["devices"]

devices = typer.Typer(name="devices", help="Known devices, and what this one is.", no_args_is_help=True)


@devices.command("list")
def list_devices() -> None:
    """Profiles of known devices."""
    table = Table("Name", "Device", "Cores", "Memory", "Power", "Accelerator", box=None, pad_edge=False)
    for profile in profiles():
        low, high = profile.power_w
        table.add_row(
            profile.name, profile.title, str(profile.cores), f"{profile.memory_gb:g} GB", f"{low:g}-{high:g} W",
            profile.accelerator or "none",
        )  # fmt: skip
    Console().print(table)


@devices.command("show")
def show() -> None:
    """What this device is, and what its sensors say."""
    device = probe()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("model", device.model or "the firmware does not say")
    table.add_row("profile", device.profile.title if device.profile else "none of the known ones")
    table.add_row("processor", f"{device.cores} cores, {device.architecture}")
    table.add_row("memory", f"{device.memory_gb:g} GB")
    for reading in read_sensors():
        table.add_row(reading.sensor, f"{reading.value:.1f} {reading.unit}")
    Console().print(table)
