"""Which sessions are held, which of them hold room in the cache, and who has to wait.

A session is *active* while its device is heard, and *parked* once that has been silent for ``idle_s`` or is known to be
gone. Parking costs its device nothing: text and cache stay, and the next round unparks it. When the cache is needed by
others, the room of parked sessions is taken first, longest silent first, then that of active ones, but only by those that
were opened earlier: so two texts that do not fit side by side are written one after the other, and never take turns in
pushing each other out. Who lost its room keeps its text, and is read again when its next round comes. Parked sessions are
dropped altogether after ``park_s``, or when there are more than ``max_parked``: their devices are then asked to resume.

Nobody waits for room that cannot come: a session that would not fit beside those that are active is refused.

Pure bookkeeping over a target; no clock, no messages.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator
from itertools import islice

from foredraft_shared.errors import Overloaded, SessionUnknown
from foredraft_shared.messages import Open, Position, Resume, SessionId

from .audit import Audit, short
from .foresight import Trust
from .observer import Closing, Observer
from .options import EngineOptions, EngineStatistics
from .sessions import Session
from .target import Target

__all__ = ["Registry", "identity"]

_REMEMBERED = 4096
"""Devices of whose drafts the server knows how good they were: those that have sessions, and up to this many in all."""


class Registry:
    """The sessions of one engine."""

    def __init__(
        self,
        target: Target,
        options: EngineOptions,
        statistics: EngineStatistics,
        observer: Observer,
    ) -> None:
        self._target = target
        self._options = options
        self._statistics = statistics
        self._observer = observer
        self._sessions: dict[SessionId, Session] = {}
        self._trusts: dict[Hashable, Trust] = {}
        self._audit = Audit()
        self._admitted = 0
        self._due_us = 0.0

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def find(self, peer: Hashable, identifier: SessionId) -> Session | None:
        """The session of that name, if there is one.

        Raises:
            SessionUnknown: it is another device's. Sessions belong to the key that opened them.
        """
        session = self._sessions.get(identifier)
        if session is not None and session.owner != identity(peer):
            self._audit.refused("another device's session", key=short(identity(peer)), session=identifier.hex()[:8])
            raise SessionUnknown("this device has no such session; open one of its own.")
        return session

    def open(self, message: Open | Resume, peer: Hashable, now_us: int) -> Session:
        """Hold a new session.

        Raises:
            Overloaded: its device, or the server, has no room for one more.
        """
        self._admit(identity(peer), now_us)
        session = Session(message, peer, self._target.open())
        session.owner = identity(peer)
        session.heard_us = now_us
        session.admitted = self._admitted = self._admitted + 1
        self.adopt(session)
        if not self._fits(session):
            self._target.release(session.slot)
            raise Overloaded(
                f"the cache has no room for a text of {session.ledger.length} tokens beside those being written; try again "
                "in a while, or use another server.",
                retry_after_ms=1000,
            )
        self._sessions[message.session] = session
        session.trust = self._trust_in(session.device)
        return session

    def resume(self, held: Session, message: Open | Resume, peer: Hashable, now_us: int) -> Session:
        """Take a session up again that is still held, keeping the part of the cache that agrees with the device's text."""
        session = Session(message, peer, held.slot)
        session.owner = held.owner
        session.heard_us = now_us
        session.evicted = held.evicted
        session.rhythm = held.rhythm
        session.admitted = held.admitted
        session.trust = held.trust
        common = 0
        for ours, theirs in zip(held.ledger.tokens, session.ledger.tokens, strict=False):
            if ours != theirs:
                break
            common += 1
        self._target.keep(held.slot, min(common, held.slot.length, session.ledger.length - 1))
        self._sessions[message.session] = session
        return session

    def _trust_in(self, device: Hashable) -> Trust:
        """What is known of a device's drafts: all its texts have it in common."""
        trust = self._trusts.pop(device, None) or Trust()
        self._trusts[device] = trust  # the last one heard of comes last
        excess = len(self._trusts) - _REMEMBERED
        if excess > 0:
            holding = {session.device for session in self}
            for known in list(islice((each for each in self._trusts if each not in holding), excess)):
                del self._trusts[known]
        return trust

    def hear(self, session: Session, peer: Hashable, now_us: int) -> None:
        """A round of ``session`` has come: it is active from now on.

        Raises:
            Overloaded: as many sessions as the server takes on at once are active.
        """
        if session.parked and self._active() >= self._options.max_sessions:
            raise Overloaded(
                f"the server is busy with {self._options.max_sessions} sessions; try again in a while.", 1000
            )
        if session.answered_us and session.round is None:
            session.rhythm.observe(now_us - session.answered_us)
        session.parked = False
        session.peer = peer
        session.heard_us = now_us

    def give_up(self, peer: Hashable, identifier: SessionId) -> None:
        """Park a session, if it still is that peer's: it is not read there any more, but may come back."""
        session = self._sessions.get(identifier)
        if session is not None and session.peer == peer:
            session.parked = True
            session.give_up()

    def close(self, identifier: SessionId, why: Closing = "closed") -> None:
        """Forget a session and free what it holds."""
        session = self._sessions.pop(identifier, None)
        if session is not None:
            self._observer.closed(session, why)
            self._target.release(session.slot)

    def forget_device(self, owner: str) -> None:
        """Close every session of a device that is no longer let in, and forget what is known of its drafts."""
        for session in [session for session in self if session.owner == owner]:
            self.close(session.ledger.session, "revoked")
        self._trusts.pop(owner, None)

    def sweep(self, now_us: float) -> None:
        """Park who has been silent, drop who was parked for too long; looks at everybody at most once a second."""
        if now_us < self._due_us:
            return
        self._due_us = now_us + 1e6
        for session in list(self):
            if session.round is None and now_us - session.heard_us >= self._options.idle_s * 1e6:
                session.parked = True
            if session.parked and now_us - session.heard_us >= self._options.park_s * 1e6:
                self.close(session.ledger.session, "expired")
        self._drop_beyond(self._options.max_parked)

    # --- room in the cache

    def adopt(self, session: Session) -> None:
        """Let a session take over what the cache holds of its unread text."""
        gained = self._target.pages.adopt(session.slot, session.ledger.tokens)
        self._statistics.prefix_hits += gained > 0
        self._statistics.prefix_tokens += gained

    def make_room(self, session: Session, length: Position, spared: Collection[Session]) -> bool:
        """Room for ``length`` tokens of ``session``, if need be that of others but not of ``spared``; ``False``: it waits."""
        pages = self._target.pages
        while not pages.reserve(session.slot, length):
            others = [each for each in self if each.slot.length and each not in spared]
            parked = [each for each in others if each.parked and each is not session]
            later = [each for each in others if each.admitted > session.admitted]
            if parked:
                self.evict(min(parked, key=lambda each: each.heard_us))
            elif later:
                self.evict(max(later, key=lambda each: each.admitted))
            else:
                return False
        return True

    def evict(self, session: Session) -> None:
        """Take a session's room in the cache; its text is kept."""
        self._target.keep(session.slot, 0)
        self._statistics.evictions += not session.evicted
        session.evicted = True

    # --- inside

    def _active(self) -> int:
        return sum(not session.parked for session in self)

    def _admit(self, owner: str, now_us: int) -> None:
        """See that there is a place for one more session."""
        self._due_us = 0.0
        self.sweep(now_us)
        own = [session for session in self if owner and session.owner == owner]
        if len(own) >= self._options.max_sessions_per_device and not self._drop_one(own):
            raise Overloaded(
                f"this device holds its {self._options.max_sessions_per_device} sessions; finish one of them first.",
                retry_after_ms=1000,
            )
        if self._active() >= self._options.max_sessions:
            raise Overloaded(
                f"the server holds its {self._options.max_sessions} sessions; try again in a while, or use another server.",
                retry_after_ms=1000,
            )

    def _fits(self, session: Session) -> bool:
        """Whether its text has room beside all that the active sessions hold and have yet to read."""
        pages = self._target.pages
        active = [each for each in self if not each.parked]
        wanted = sum(pages.needed(each.slot, each.ledger.length) for each in active if each.wanted)
        wanted += pages.needed(session.slot, session.ledger.length)
        return pages.held([*(each.slot for each in active), session.slot]) + wanted <= pages.count

    def _drop_beyond(self, most: int) -> None:
        parked = [session for session in self if session.parked]
        for _ in range(len(parked) - most):
            self._drop_one(parked)

    def _drop_one(self, among: Iterable[Session]) -> bool:
        """Drop the parked session that has been silent longest."""
        parked = [session for session in among if session.parked and session.ledger.session in self._sessions]
        silent = min(parked, key=lambda session: session.heard_us, default=None)
        if silent is not None:
            self.close(silent.ledger.session, "evicted")
        return silent is not None


def identity(peer: Hashable) -> str:
    """Who authentication says a peer is; empty where nobody asks."""
    return str(getattr(peer, "identity", ""))
