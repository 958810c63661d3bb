"""One line for each refusal, on the log ``foredraft.audit``; a flood of them is counted, not written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from foredraft_shared.token_bucket import TokenBucket

__all__ = ["Audit", "printable", "short"]

LINES_PER_SECOND = 10.0


class Audit:
    """Writes the lines; for any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = structlog.get_logger("foredraft.audit")
        self._lock = threading.Lock()
        self._bucket = TokenBucket(LINES_PER_SECOND, 5 * LINES_PER_SECOND, clock)
        self._left_out = 0

    def refused(self, what: str, **facts: object) -> None:
        """Something was refused: ``what``, in a few words that never change, and to whom."""
        with self._lock:
            if self._bucket.take() > 0.0:
                self._left_out += 1
                return
            if self._left_out:
                facts["left_out"] = self._left_out
                self._left_out = 0
        self._log.warning("refused", what=what, **facts)

    def done(self, what: str, **facts: object) -> None:
        """Something an operator will want to find again was done."""
        self._log.info(what, **facts)


def printable(said: str) -> str:
    """What a device calls itself, fit for a line of a log: short, and without what moves a terminal's cursor."""
    return "".join(character for character in said[:64] if character.isprintable())


def short(public_key: str) -> str:
    """Enough of a key to find it in ``foredraft keys list``."""
    return public_key[:8]
