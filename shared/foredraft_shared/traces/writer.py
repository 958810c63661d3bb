"""Writing a trace while the loop runs: cheap, and whole up to the last line whatever kills the process."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from ..errors import UsageError
from ..version import version
from .records import RoundRecord, TraceHeader, encode_line

__all__ = ["TraceWriter"]

_log = logging.getLogger("foredraft.traces")


class TraceWriter:
    """Appends one line a round to a file.

    Every line goes to the kernel in one write of its own, so that a killed process loses at most the line it was
    writing; nothing is forced to the disk, so that a round costs microseconds and not milliseconds. A disk that fills
    up ends the trace, with a warning in the log, and never the text: see :attr:`failed`.

    Args:
        path: replaced if it exists.
        labels: kept in the header; see :class:`TraceHeader`.
        clock_ns: the monotonic clock all instants are read from.

    Raises:
        UsageError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path | str,
        labels: Mapping[str, str] | None = None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UsageError(
                f"cannot write the trace {path}: {error.strerror}; name a file in a folder you may write to."
            ) from None
        self._clock_ns = clock_ns
        self._began_ns = clock_ns()
        self.failed = False
        """Whether a write has failed; nothing is written after it."""
        self._write(
            encode_line(
                TraceHeader(foredraft=version(), began_unix_us=time.time_ns() // 1000, labels=dict(labels or {}))
            )
        )

    @property
    def began_ns(self) -> int:
        """The reading of the clock that instants are counted from."""
        return self._began_ns

    def at_us(self, clock_ns: int) -> int:
        """A reading of the clock as an instant of this trace."""
        return (clock_ns - self._began_ns) // 1000

    def now_us(self) -> int:
        """The instant it is."""
        return (self._clock_ns() - self._began_ns) // 1000

    def write(self, record: RoundRecord) -> None:
        """Append one round. Never raises for want of disk."""
        if not self.failed:
            self._write(encode_line(record))

    def close(self) -> None:
        """Close the file; may be called twice."""
        self.failed = True
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        try:
            whole = os.write(self._file, line) == len(line)
        except OSError as error:
            whole = False
            _log.warning("the trace ends here: %s; free some disk and start again to trace more", error.strerror)
        self.failed = not whole
