"""Networks that somebody recorded, played again by the link emulator and by the simulator.

A recording is a CSV file. Its first line names the columns; each further line holds until the next one's time, the last
one as long as the one before it, and then it begins again::

    time_s,delay_ms,rate_mbps
    0,22.5,40
    0.5,31,12

===================  ======================================================================================
``time_s``           seconds, from any beginning, ascending
``delay_ms``         of one way, for both ways; or ``delay_up_ms`` and ``delay_down_ms``
``rate_mbps``        megabits a second each way; or ``rate_up_mbps`` and ``rate_down_mbps``. 0, empty or no such
                     column: unlimited
===================  ======================================================================================

*Up* is from device to cloud. ``foredraft trace link`` makes such a file of the rounds of a recorded text.
"""

from __future__ import annotations

import bisect
import csv
import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from .relay import LinkSettings

__all__ = ["LinkRecording", "read_recording", "write_recording"]

_COLUMNS = (
    "time_s",
    "delay_ms",
    "delay_up_ms",
    "delay_down_ms",
    "rate_mbps",
    "rate_up_mbps",
    "rate_down_mbps",
)


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

    @property
    def mean_rtt_ms(self) -> float:
        """The round trip, each row weighed by how long it holds."""
        ends = (*self.times_s[1:], self.length_s)
        spans = zip(self.times_s, ends, self.settings, strict=True)
        return sum((end - begin) * settings.rtt_ms for begin, end, settings in spans) / self.length_s

    def at(self, time_s: float) -> LinkSettings:
        """What the network is like so long after its beginning."""
        return self.settings[bisect.bisect_right(self.times_s, time_s % self.length_s) - 1]

    def with_(self, **changes: float) -> LinkRecording:
        """The same with some settings changed in every row, such as ``jitter_ms`` or ``stall_every_s``."""
        return LinkRecording(self.times_s, tuple(dataclasses.replace(row, **changes) for row in self.settings))  # type: ignore[arg-type]


def read_recording(path: Path | str) -> LinkRecording:
    """A recording from a CSV file.

    Raises:
        UsageError: no such file, or a line that cannot be used; says which and why.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot read the link recording {path}: {reason}; name a CSV file.") from None
    _check_columns(columns, path)
    if not rows:
        raise UsageError(f"{path} is no link recording: nothing follows its first line; give it at least one row.")
    times: list[float] = []
    settings: list[LinkSettings] = []
    began_s = 0.0
    for number, row in rows:
        try:
            if None in row:
                raise ValueError("it has more values than the first line has columns")
            time_s = _number(row, "time_s")
            if times and time_s - began_s <= times[-1]:
                raise ValueError(f"its time {time_s:g} does not follow the one before it")
            settings.append(_settings(row))
        except ValueError as error:
            raise UsageError(f"line {number} of {path} cannot be used: {str(error).rstrip('.')}; mend it.") from None
        began_s = time_s if not times else began_s
        times.append(time_s - began_s)
    return LinkRecording(tuple(times), tuple(settings))


def write_recording(path: Path, rows: Iterable[tuple[float, float]]) -> None:
    """Write a recording of ``(time_s, delay_ms)``, both ways alike.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("time_s", "delay_ms"))
            writer.writerows((f"{time_s:.3f}", f"{delay_ms:.3f}") for time_s, delay_ms in rows)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; name a file in a folder you may write to.") from None


def _check_columns(columns: list[str], path: Path | str) -> None:
    wanted = "its first line names the columns, such as time_s,delay_ms,rate_mbps"
    unknown = [column for column in columns if column not in _COLUMNS]
    if (
        unknown
        or "time_s" not in columns
        or not ("delay_ms" in columns or {"delay_up_ms", "delay_down_ms"} <= {*columns})
    ):
        said = f"{unknown[0]!r} is no column of one" if unknown else "a column is missing"
        raise UsageError(f"{path} is no link recording: {said}; {wanted}.")
    for both, *ways in (("delay_ms", "delay_up_ms", "delay_down_ms"), ("rate_mbps", "rate_up_mbps", "rate_down_mbps")):
        if both in columns and any(way in columns for way in ways):
            raise UsageError(f"{path} gives {both} and that of one way, too; leave out one of them.")


def _settings(row: Mapping[str, str | None]) -> LinkSettings:
    if "delay_ms" in row:
        up_ms = down_ms = _number(row, "delay_ms")
    else:
        up_ms, down_ms = _number(row, "delay_up_ms"), _number(row, "delay_down_ms")
    if up_ms < 0.0 or down_ms < 0.0:
        raise ValueError(f"its delay is {min(up_ms, down_ms):g}")
    rtt_ms = up_ms + down_ms
    both = _number(row, "rate_mbps", 0.0)
    return LinkSettings(
        rtt_ms=rtt_ms,
        up_share=up_ms / rtt_ms if rtt_ms else 0.5,
        rate_mbps=_number(row, "rate_down_mbps", both),
        rate_up_mbps=_number(row, "rate_up_mbps", both),
    )


def _number(row: Mapping[str, str | None], column: str, empty: float | None = None) -> float:
    """What stands in a column; ``empty`` where nothing does.

    Raises:
        ValueError: no number.
    """
    text = (row.get(column) or "").strip()
    if not text:
        if empty is None:
            raise ValueError(f"its {column} is missing")
        return empty
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"its {column} is {text!r} and not a number")
    return value
