"""Reading a trace back, torn last line and all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..errors import Malformed, UsageError
from .records import FORMAT, RoundRecord, TraceHeader, decode_header, decode_round

__all__ = ["Trace", "read_trace"]


@dataclass(slots=True)
class Trace:
    """A trace in memory; rounds in the order they were written, which is the order they were over."""

    header: TraceHeader
    rounds: list[RoundRecord] = field(default_factory=list)
    torn: bool = False
    """Whether the last line was cut short, as a killed writer leaves it; it is not among the rounds."""


def read_trace(path: Path | str) -> Trace:
    """The trace in a file.

    Raises:
        UsageError: no such file, not a trace, of a newer format, or damaged anywhere but in its last line.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"cannot read the trace {path}: {error.strerror}.") from None
    # What follows the last newline is empty, or the beginning of a line that nobody finished.
    torn = lines.pop() != b""
    if not lines:
        raise UsageError(f"{path} is no trace: it has not one whole line; `--trace FILE` writes one.")
    try:
        header = decode_header(lines[0])
    except Malformed as error:
        raise UsageError(f"{path} is no trace: its first line is {error}") from None
    if header.format > FORMAT:
        raise UsageError(
            f"{path} was written by foredraft {header.foredraft}, in a newer format; update foredraft here."
        )
    trace = Trace(header, torn=torn)
    for number, line in enumerate(lines[1:], start=2):
        try:
            trace.rounds.append(decode_round(line))
        except Malformed as error:
            raise UsageError(f"line {number} of {path} is {error}") from None
    return trace
