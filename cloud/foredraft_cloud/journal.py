"""What an operator reads back after something went wrong: one line each, with the session's and the device's short name.

Never a word of a text, neither tokens nor their number by position: only that it began and how it ended. What goes wrong is
written once, where it is noticed: a device that repeats a refused message does not repeat the line.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, TextIO, TypeAlias

import structlog

from foredraft_shared.errors import UsageError
from foredraft_shared.messages import SessionId
from foredraft_shared.token_bucket import TokenBucket

from .audit import LINES_PER_SECOND, short
from .observer import Closing, Opening, Unobserved
from .sessions import Session

__all__ = ["LOG_FORMATS", "LOG_LEVELS", "Journal", "LogFormat", "LogStream", "configure_logs"]

LogFormat: TypeAlias = Literal["console", "json"]
LOG_FORMATS = ("console", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
_REMEMBERED = 1024


def configure_logs(form: str, level: str) -> None:
    """Where the lines of this process go: to standard error, for people or one JSON object a line.

    Raises:
        UsageError: format or level is none.
    """
    if form not in LOG_FORMATS:
        raise UsageError(f"log format is {form!r}; choose {' or '.join(LOG_FORMATS)}.")
    if level not in LOG_LEVELS:
        raise UsageError(f"log level is {level!r}; choose {', '.join(LOG_LEVELS)}.")
    as_json = form == "json"
    colours = sys.stderr is not None and sys.stderr.isatty()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True) if as_json else structlog.processors.TimeStamper("%X"),
        *((structlog.processors.dict_tracebacks,) if as_json else ()),
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=colours),
    ]

    def told(lost: int) -> str:
        line: Any = {"event": "lines of the log are lost: it could not be written", "lost": lost}
        for process in processors:
            line = process(None, "warning", line)
        return str(line)

    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(LogStream(sys.stderr, told)),  # type: ignore[arg-type]
    )


class LogStream:
    """Where lines go that nobody may have to read: a closed pipe or a full disk ends the log, not the server.

    Lines that cannot be written are counted, and told of before the next one that can. Past the stream's own buffer, where
    its file has a number: what lay there would be written later, or fail once more when the process ends.

    Args:
        stream: ``None`` for a process that was started without one.
        told: the line, without its end, that says how many were lost.
    """

    def __init__(self, stream: TextIO | None, told: Callable[[int], str]) -> None:
        self._stream = stream
        self._told = told
        self._lost = 0
        self._torn = False

    def write(self, line: str) -> None:
        """Write a line, its end included, or count it as lost; never raises."""
        if self._lost and self._written(f"{self._told(self._lost)}\n"):
            self._lost = 0
        if self._lost or not self._written(line):
            self._lost += 1

    def flush(self) -> None:
        """Nothing is held back."""

    def _written(self, line: str) -> bool:
        if self._stream is None:
            return False
        try:
            number = None
            with suppress(OSError):  # no file of the system's: a test's, a notebook's
                number = self._stream.fileno()
            if number is None:
                self._stream.write(line)
                self._stream.flush()
                return True
            left = ("\n" if self._torn else "").encode() + line.encode("utf-8", "backslashreplace")
            while left:
                left = left[os.write(number, left) :]
                self._torn = bool(left)
        except (OSError, ValueError):  # ValueError: the stream is closed
            return False
        return True


class Journal(Unobserved):
    """Writes sessions and refusals to the log ``foredraft.sessions``."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("foredraft.sessions")
        self._bucket = TokenBucket(LINES_PER_SECOND, 5 * LINES_PER_SECOND)
        self._told: OrderedDict[tuple[str, SessionId, str], None] = OrderedDict()

    def opened(self, session: Session, how: Opening) -> None:
        """A line at level debug; at info when a text had to be read again."""
        write = self._log.info if how == "prefill" else self._log.debug
        what = "session opened" if how == "open" else "session resumed"
        write(what, how=how, epoch=session.ledger.epoch, **_names(session.ledger.session, session.owner))

    def closed(self, session: Session, why: Closing) -> None:
        """A line at level debug; at info when its device did not ask for it."""
        write = self._log.debug if why == "closed" else self._log.info
        write("session closed", why=why, **_names(session.ledger.session, session.owner))

    def refused(self, code: str, session: SessionId, device: str, *, audited: bool = False) -> None:
        """A line at level warning, once for each code, session and device, and not more than some a second."""
        key = (code, session, device)
        if audited or key in self._told or self._bucket.take() > 0.0:
            return
        self._told[key] = None
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        self._log.warning("refused", code=code, **_names(session, device))


def _names(session: SessionId, device: str) -> dict[str, str]:
    return {"session": session.hex()[:8] or "none", "device": short(device) or "unknown"}
