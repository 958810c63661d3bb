"""What a device is, read from a file system made for the purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from foredraft_devices import Reading, probe, profiles, read_sensors


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit\0", "jetson-orin-nano"),
        ("NVIDIA Jetson Nano Developer Kit\0", "jetson-nano"),
        ("NVIDIA Jetson AGX Orin Developer Kit\0", "jetson-agx-orin"),
        ("Raspberry Pi 5 Model B Rev 1.0\0", "raspberry-pi-5"),
    ],
)
def test_a_known_device_is_recognised_by_its_firmware(tmp_path: Path, model: str, name: str) -> None:
    write(tmp_path, "proc/device-tree/model", model)
    write(tmp_path, "proc/meminfo", "MemTotal:        8000000 kB\nMemFree: 1 kB\n")
    device = probe(tmp_path)
    assert device.profile is not None
    assert device.name == name
    assert device.model == model.rstrip("\0")
    assert device.memory_gb == 8.0
    assert device.cores >= 1


def test_an_unknown_device_goes_by_its_architecture(tmp_path: Path) -> None:
    device = probe(tmp_path)
    assert device.profile is None
    assert device.model == ""
    assert device.name == device.architecture


def test_every_profile_is_whole_and_none_is_shadowed() -> None:
    for profile in profiles():
        assert profile.power_w[0] <= profile.power_w[1]
        for mark in profile.recognised_by:
            assert mark == mark.lower()
            owners = [other.name for other in profiles() if any(each in mark for each in other.recognised_by)]
            assert owners == [profile.name]


def test_sensors(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "48500\n")
    write(tmp_path, "sys/class/thermal/thermal_zone1/temp", "not a number\n")
    write(tmp_path, "sys/class/hwmon/hwmon1/name", "ina3221\n")
    write(tmp_path, "sys/class/hwmon/hwmon1/in1_label", "VDD_IN\n")
    write(tmp_path, "sys/class/hwmon/hwmon1/in1_input", "5000\n")
    write(tmp_path, "sys/class/hwmon/hwmon1/curr1_input", "1200\n")
    write(tmp_path, "sys/class/hwmon/hwmon2/name", "meter\n")
    write(tmp_path, "sys/class/hwmon/hwmon2/power1_input", "7250000\n")
    assert read_sensors(tmp_path) == (
        Reading("cpu-thermal", 48.5, "C"),
        Reading("VDD_IN", 6.0, "W"),
        Reading("meter power1", 7.25, "W"),
    )
    assert read_sensors(tmp_path / "nothing") == ()
