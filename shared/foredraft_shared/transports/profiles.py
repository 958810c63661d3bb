"""Networks with a name, and networks somebody recorded: data for the link emulator and for the simulator.

Figures are round trips as an application sees them. ``lossy`` stands for a line of 40 ms on which one message in fifty has
to be sent again: TCP holds everything behind it back until then, which to a program is a stall of 200 ms (Linux' shortest
retransmission time-out, ``TCP_RTO_MIN``). The emulator's stalls come by the clock and not by the message, so the 2 % are
written as one stall in two seconds: a device that waits for a verdict before its next draft exchanges about 25 messages
in that time each second, both ways together. ``lte`` is limited to 12 Mbit/s both ways, as only its uplink would be.

A recording is a CSV file with the columns ``time_s``, ``delay_ms`` (one way) and ``rate_mbps`` (0 or empty: unlimited).
Each row holds until the next one's time; after the last row it begins again.
"""

from __future__ import annotations

import bisect
import csv
import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from .relay import LinkSettings

__all__ = ["PROFILES", "LinkRecording", "profile", "read_recording"]

PROFILES: dict[str, LinkSettings] = {
    "lan": LinkSettings(rtt_ms=1.0),
    "wifi": LinkSettings(rtt_ms=6.0, jitter_ms=3.0),
    "5g": LinkSettings(rtt_ms=20.0, jitter_ms=5.0),
    "lte": LinkSettings(rtt_ms=50.0, jitter_ms=15.0, rate_mbps=12.0),
    "intercontinental": LinkSettings(rtt_ms=150.0),
    "satellite": LinkSettings(rtt_ms=600.0),
    "lossy": LinkSettings(rtt_ms=40.0, stall_every_s=2.0, stall_ms=200.0),
}


def profile(name: str) -> LinkSettings:
    """The settings of a network by its name.

    Raises:
        UsageError: there is no network of that name.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise UsageError(f"there is no link profile {name!r}; choose from {', '.join(PROFILES)}.") from None


@dataclass(frozen=True, slots=True)
class LinkRecording:
    """A network that changes as one did that somebody recorded."""

    times_s: tuple[float, ...]
    """Ascending, the first is 0."""
    settings: tuple[LinkSettings, ...]
    """What holds from each of the times on."""

    @property
    def length_s(self) -> float:
        """When it begins again: the last row holds as long as the one before it."""
        last_s = self.times_s[-1] - self.times_s[-2] if len(self.times_s) > 1 else 1.0
        return self.times_s[-1] + last_s

    def at(self, time_s: float) -> LinkSettings:
        """What the network is like so long after its beginning."""
        return self.settings[bisect.bisect_right(self.times_s, time_s % self.length_s) - 1]


def read_recording(path: Path | str) -> LinkRecording:
    """A recording from a CSV file.

    Raises:
        UsageError: no such file, or a line that cannot be used; says which and why.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read the link recording {path}: {error}.") from None
    if not rows or not {"time_s", "delay_ms"} <= rows[0].keys():
        raise UsageError(f"{path} is no link recording: its first line names the columns time_s,delay_ms,rate_mbps.")
    began_s = 0.0
    times: list[float] = []
    settings: list[LinkSettings] = []
    for number, row in enumerate(rows, start=2):
        try:
            time_s, delay_ms = float(row["time_s"]), float(row["delay_ms"])
            if not math.isfinite(time_s) or (times and time_s - began_s <= times[-1]):
                raise ValueError(f"time {time_s} does not follow the line before it")
            began_s = time_s if not times else began_s
            times.append(time_s - began_s)
            settings.append(LinkSettings(rtt_ms=2.0 * delay_ms, rate_mbps=float(row.get("rate_mbps") or 0.0)))
        except (TypeError, ValueError) as error:
            raise UsageError(f"line {number} of {path} cannot be used: {str(error).rstrip('.')}.") from None
    return LinkRecording(tuple(times), tuple(settings))
