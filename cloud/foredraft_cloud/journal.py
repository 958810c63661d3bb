"""What an operator reads back after something went wrong: one line each, with the session's and the device's short name.

Never a word of a text, neither tokens nor their number by position: only that it began and how it ended. What goes wrong is
written once, where it is noticed: a device that repeats a refused message does not repeat the line.
"""

from __future__ import annotations

import logging
import sys
from collections import OrderedDict
from typing import Literal, TypeAlias

import structlog

from foredraft_shared.errors import UsageError
from foredraft_shared.messages import SessionId
from foredraft_shared.token_bucket import TokenBucket

from .audit import LINES_PER_SECOND, short
from .observer import Closing, Opening, Unobserved
from .sessions import Session

__all__ = ["LOG_FORMATS", "LOG_LEVELS", "Journal", "LogFormat", "configure_logs"]

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
    renderer = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True)
            if as_json
            else structlog.processors.TimeStamper("%X"),
            *((structlog.processors.dict_tracebacks,) if as_json else ()),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


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
