"""Memory and energy, from files and readings that are handed in."""

from __future__ import annotations

from pathlib import Path

from foredraft_bench.comparison.machine import describe_machine
from foredraft_bench.comparison.sensors import PowerMeter, peak_memory_mib
from foredraft_devices.telemetry import Reading


def test_peak_memory_of_those_that_can_be_told(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "status").write_text("Name:\tpython\nVmPeak:\t  9000 kB\nVmHWM:\t  2048 kB\n")
    (tmp_path / "8").mkdir()
    (tmp_path / "8" / "status").write_text("Name:\tkthreadd\n")
    assert peak_memory_mib({"edge": 7, "cloud": 8, "network": 9}, tmp_path) == {"edge": 2.0}


class _Sensors:
    """A clock and two rails, of which the first is the sum of what there is."""

    def __init__(self) -> None:
        self.now = 0.0
        self.watts = 10.0

    def read(self) -> tuple[Reading, ...]:
        return (
            Reading("VDD_IN", self.watts, "W"), Reading("VDD_GPU", self.watts / 2, "W"), Reading("cpu", 55.0, "C"),
        )  # fmt: skip

    def clock(self) -> float:
        return self.now


def test_energy_is_the_mean_power_times_the_time() -> None:
    sensors = _Sensors()
    with PowerMeter(sensors.read, sensors.clock, interval_s=60.0) as meter:
        begun = meter.joules()
        sensors.now, sensors.watts = 2.0, 20.0
        ended = meter.joules()
    assert (begun, ended) == (0.0, 30.0)  # of the rail that is the sum of the others


def test_a_device_without_a_meter_tells_nothing() -> None:
    with PowerMeter(lambda: (Reading("cpu", 55.0, "C"),)) as meter:
        assert not meter.available
        assert meter.joules() is None


def test_the_machine_in_words(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Fast One\n")
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:  2097152 kB\n")
    told = describe_machine(tmp_path)
    assert (told["processor"], told["memory"]) == ("A Fast One", "2.0 GiB")
    assert "torch" in told
