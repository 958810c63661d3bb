"""Is the server there? A state machine without I/O: it is told what was asked and heard, and says what to do.

::

    CONNECTING ─ verdict ─> ACTIVE <──────────── verdict ────────────┐
        │                     │                                      │
        └── silence ──┬───────┘                                      │
                      v                                              │
                   SUSPECT ── no pong ──> EDGE_ONLY ── anything ──> RESUMING ── silence ──> SUSPECT …
                      └─ verdict ─> ACTIVE

A verdict that is late makes the server suspect: what was asked is repeated, for it may have been lost, and a ping asks
whether anybody is there. A server whose own code answers a ping is merely slow. One that does not is gone, and with it
the link: a transport's heartbeat cannot tell that (ZeroMQ's thread answers it while the server is stuck). From then on
pings probe for it, the connection is made anew now and then, and the first word from it means that it is back.
"""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias

__all__ = ["Action", "SessionState", "Watch"]

Action: TypeAlias = Literal["repeat", "ping", "reconnect"]
"""``repeat``: send again what has no answer. ``ping``: ask whether anybody is there. ``reconnect``: begin a new connection."""

PATIENCE_FLOOR_S = 0.25
"""A server is never suspected earlier: on a busy machine a verdict may be that late."""
PROBE_S = 0.25
"""Between two pings of a server that is gone. A ping is 14 bytes."""
RECONNECT_S = 0.5
"""Between two attempts to connect anew."""
REPEAT_LIMIT_S = 4.0
"""Repetitions become rarer, up to this."""
STALL_S = 0.25
"""A server that answers pings but not rounds for so long is as good as gone, for who can go on alone."""


_NEVER_NS = 1 << 62
_DOUBLINGS = 2


class SessionState(str, enum.Enum):
    """How a text stands to its server."""

    CONNECTING = "connecting"
    """Nothing has been answered yet."""
    ACTIVE = "active"
    SUSPECT = "suspect"
    """A verdict is late."""
    EDGE_ONLY = "edge_only"
    """The server is gone; what is written now is the edge's own."""
    RESUMING = "resuming"
    """The server is back; nothing has been verified yet."""
    CLOSED = "closed"

    def __str__(self) -> str:
        return self.value


class Watch:
    """The state of one text's server, from instants in nanoseconds of one clock.

    Args:
        now_ns: the present.
        ping_s: how long a pong may take; :meth:`patience` sets it together with that of verdicts.
    """

    def __init__(self, now_ns: int, ping_s: float = PATIENCE_FLOOR_S) -> None:
        self.state = SessionState.CONNECTING
        self.alone = False
        """No verdict can be counted on: whoever may, goes on alone."""
        self.heard_ns = now_ns
        """When anything came from the server."""
        self.answered_ns = now_ns
        """When the text last grew, or could have begun to."""
        self._asked_ns: int | None = None
        """Since when an answer is owed; ``None`` if none is."""
        self._patience_ns = _ns(PATIENCE_FLOOR_S)
        self._ping_ns = _ns(ping_s)
        self._reads = False
        self._suspect_ns = 0
        self._held_until_ns = 0
        self._idle_until_ns = 0
        self._repeat_at_ns = 0
        self._repeat_ns = 0
        self._ping_at_ns = 0
        self._reconnect_at_ns = 0
        self._known = False
        """Whether it is known how far away the server is."""
        self._attempts = 0
        """To connect to a server that is not known."""

    # --- what happens

    def patience(self, verdict_s: float, pong_s: float) -> None:
        """How long a verdict and a pong may take before they are late; 0: nobody knows."""
        self._known = self._known or pong_s > 0
        self._patience_ns = _ns(max(PATIENCE_FLOOR_S, verdict_s))
        self._ping_ns = _ns(max(PATIENCE_FLOOR_S / 2, pong_s))

    def asked(self, now_ns: int, *, reads: bool) -> None:
        """Something was sent that is to be answered; ``reads`` if the server has to read a long text first."""
        self._reads = self._reads or reads
        if self._asked_ns is None:
            self._asked_ns = now_ns
            self._repeat_ns = self._patience_ns
            self._repeat_at_ns = now_ns + self._repeat_ns

    def heard(self, now_ns: int) -> bool:
        """Anything came from the server. Returns whether it had been gone: then what has no answer is to be sent again."""
        self.heard_ns = now_ns
        self._known, self._attempts = True, 0
        if self.state is not SessionState.EDGE_ONLY or now_ns < self._held_until_ns:
            return False
        self.state = SessionState.RESUMING
        self._restart(now_ns)
        return True

    def answered(self, now_ns: int, *, owed: bool) -> None:
        """A verdict was committed; ``owed`` if more is in flight."""
        self.heard_ns = self.answered_ns = now_ns
        self.state = SessionState.ACTIVE
        self.alone = False
        self._asked_ns = None
        self._reads = False
        if owed:
            self.asked(now_ns, reads=False)

    def unreachable(self, now_ns: int) -> None:
        """Nothing can be sent: there is no connection, and no reason to be patient."""
        if self.state is not SessionState.EDGE_ONLY:
            self._lose(now_ns)

    def refused(self, now_ns: int, retry_after_s: float) -> None:
        """The server does not want this text at present: leave it in peace for a while."""
        self._held_until_ns = now_ns + _ns(retry_after_s)
        self._lose(now_ns)
        self._ping_at_ns = self._held_until_ns

    def excuse(self, nanoseconds: int) -> None:
        """The caller was busy elsewhere: that is nobody's silence."""
        self.heard_ns += nanoseconds
        self.answered_ns += nanoseconds
        self._repeat_at_ns += nanoseconds
        self._suspect_ns += nanoseconds
        if self._asked_ns is not None:
            self._asked_ns += nanoseconds

    def close(self) -> None:
        self.state = SessionState.CLOSED
        self.alone = False

    # --- what to do

    def next_ns(self) -> int:
        """When :meth:`tick` will have something to say, if nothing is heard until then."""
        if self.state is SessionState.EDGE_ONLY:
            return self._ping_at_ns
        if self._asked_ns is None:
            return max(self.heard_ns + _ns(REPEAT_LIMIT_S), self._idle_until_ns)
        if self.state is SessionState.SUSPECT:
            return min(self._repeat_at_ns, self._lost_ns(), self._stalled_ns())
        return self._asked_ns + self._patience_ns

    def tick(self, now_ns: int) -> list[Action]:
        """Nothing was heard: what to do about it now."""
        if self.state is SessionState.EDGE_ONLY:
            if now_ns < self._ping_at_ns:
                return []
            self._ping_at_ns = now_ns + _ns(PROBE_S)
            if now_ns < self._reconnect_at_ns:
                return ["ping"]
            # Who is far away answers later than that, so a server that was never heard is given longer each time.
            self._reconnect_at_ns = now_ns + (self._reconnect_ns << min(self._attempts, _DOUBLINGS))
            self._attempts += not self._known
            return ["reconnect", "ping"]
        if self._asked_ns is None:
            self._idle_until_ns = now_ns + _ns(REPEAT_LIMIT_S)
            return []
        if self.state is not SessionState.SUSPECT:
            if now_ns < self._asked_ns + self._patience_ns:
                return []
            self.state = SessionState.SUSPECT
            self._suspect_ns = now_ns
            self._repeat_at_ns = now_ns + self._repeat_ns
            return ["repeat", "ping"]
        if self.heard_ns < self._suspect_ns and now_ns >= self._lost_ns():
            self._lose(now_ns)
            return ["ping"]
        actions: list[Action] = []
        if now_ns >= self._stalled_ns():
            self.alone = True
        if now_ns >= self._repeat_at_ns:
            # A server that answered the last ping has to answer one more each time.
            self._suspect_ns = now_ns
            self._repeat_ns = min(2 * self._repeat_ns, max(_ns(REPEAT_LIMIT_S), self._patience_ns))
            self._repeat_at_ns = now_ns + self._repeat_ns
            actions = ["repeat", "ping"]
        return actions

    # --- inside

    @property
    def _reconnect_ns(self) -> int:
        """Between two attempts to connect; a handshake takes three round trips and has to come to its end."""
        return max(_ns(RECONNECT_S), 4 * self._ping_ns)

    def _lose(self, now_ns: int) -> None:
        self.state = SessionState.EDGE_ONLY
        self.alone = True
        self._ping_at_ns = now_ns + _ns(PROBE_S)
        # An outage may be short: the old connection gets its chance.
        self._reconnect_at_ns = now_ns + self._reconnect_ns // 2

    def _restart(self, now_ns: int) -> None:
        self._asked_ns = now_ns
        self._repeat_ns = self._patience_ns
        self._repeat_at_ns = now_ns + self._repeat_ns

    def _lost_ns(self) -> int:
        """When the lack of a pong will have told that the server is gone."""
        return self._suspect_ns + self._ping_ns if self.heard_ns < self._suspect_ns else self._repeat_at_ns

    def _stalled_ns(self) -> int:
        """When a server that answers pings only counts as gone for who can go on alone."""
        if self.alone or self._reads or self._asked_ns is None:
            return _NEVER_NS
        return max(self._asked_ns + self._patience_ns, self.answered_ns) + _ns(STALL_S)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
