"""What a comparison costs its machine: the memory of each process, and the energy where the device has a meter."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from foredraft_devices.telemetry import Reading, read_sensors

__all__ = ["PowerMeter", "peak_memory_mib"]


def peak_memory_mib(processes: Mapping[str, int], root: Path = Path("/proc")) -> dict[str, float]:
    """The most memory that each process has held at once (resident set), in MiB; without those that cannot be told.

    Args:
        processes: process numbers by name.
    """
    found = {}
    for name, number in processes.items():
        try:
            status = (root / str(number) / "status").read_text()
        except OSError:
            continue
        peak = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        if peak:
            found[name] = round(int(peak[1]) / 1024, 1)
    return found


class PowerMeter:
    """Adds up what the device's power sensors say, by default ten times a second, in a thread of its own; a context manager.

    A device with several meters measures its whole input and parts of that (the rails of a Jetson), so the one that reads
    most is taken, and not their sum. Where there is none, no thread is started.
    """

    def __init__(
        self,
        read: Callable[[], tuple[Reading, ...]] = read_sensors,
        clock: Callable[[], float] = time.perf_counter,
        interval_s: float = 0.1,
    ) -> None:
        self._interval_s = interval_s
        self._read = read
        self._clock = clock
        self._joules: dict[str, float] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._last = clock()
        self._watts = self._powers()
        self.available = bool(self._watts)
        self._thread = threading.Thread(target=self._run, name="power", daemon=True)
        if self.available:
            self._thread.start()

    def joules(self) -> float | None:
        """What was used since the meter was made; ``None`` without sensors."""
        if not self.available:
            return None
        with self._lock:
            self._advance()
            return max(self._joules.values(), default=0.0)

    def close(self) -> None:
        """Stop; may be called twice."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            with self._lock:
                self._advance()

    def _advance(self) -> None:
        """Count the time since the last reading with the mean of that and a new one."""
        now, watts = self._clock(), self._powers()
        for sensor, value in watts.items():
            mean = (value + self._watts.get(sensor, value)) / 2.0
            self._joules[sensor] = self._joules.get(sensor, 0.0) + mean * (now - self._last)
        self._last, self._watts = now, watts

    def _powers(self) -> dict[str, float]:
        return {reading.sensor: reading.value for reading in self._read() if reading.unit == "W"}
