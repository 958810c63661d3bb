"""One line for each refusal, on the log ``foredraft.audit``; a flood of them is counted, not written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from foredraft_shared.token_bucket import TokenBucket

__all__ = ["NO_KEYS", "Audit", "Knocks", "printable", "short"]

LINES_PER_SECOND = 10.0
KNOCKS_S = 10.0
"""One line in so long for each reason why handshakes fail: a device tries several times before it gives up."""
NO_KEYS = "did not encrypt, or hung up"
"""ZeroMQ cannot tell these apart: each side hangs up when it reads what the other wants, and one is first."""


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


class Knocks:
    """Handshakes that fail before anybody has said who he is; for one thread.

    Args:
        audit: gets a line for the first of each reason, and later ones how many were like it in between.
    """

    def __init__(self, audit: Audit, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._written: dict[str, float] = {}
        self._untold = 0

    def refused(self, what: str, **facts: object) -> None:
        """A handshake failed, and why is known."""
        now = self._clock()
        if now - self._written.get(what, -KNOCKS_S) < KNOCKS_S:
            self._untold += 1
            return
        self._written[what] = now
        if self._untold:
            facts["more"], self._untold = self._untold, 0
        self._audit.refused(what, **facts)

    def hung_up(self) -> None:
        """One was broken off: by somebody of whom there is a line already, if there is a recent one."""
        if any(self._clock() - written < KNOCKS_S for written in self._written.values()):
            self._untold += 1
        else:
            self.refused(NO_KEYS)


def printable(said: str) -> str:
    """What a device calls itself, fit for a line of a log: short, and without what moves a terminal's cursor."""
    return "".join(character for character in said[:64] if character.isprintable())


def short(public_key: str) -> str:
    """Enough of a key to find it in ``foredraft keys list``."""
    return public_key[:8]
