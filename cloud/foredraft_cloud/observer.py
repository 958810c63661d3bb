"""Whoever looks on while the engine works: figures for operators, spans, a journal.

The engine tells each of these moments once, on the model thread, and asks nothing back. What it hands over is its own and
changes later: an observer takes what it needs at once. Observers that nobody asked for cost one empty call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from foredraft_shared.messages import Decode, Draft, Hint, SessionId, Verdict

from .sessions import Round, Session
from .target import Run

__all__ = ["Closing", "Observer", "Opening", "PassSeen", "Share", "Together", "Unobserved"]

Opening: TypeAlias = Literal["open", "cache", "prefill"]
"""``open``: a new text. ``cache``: a text taken up again whose keys and values were still held. ``prefill``: one that has
to be read again."""
Closing: TypeAlias = Literal["closed", "revoked", "evicted", "expired"]
"""``closed``: the device said so. ``revoked``: it is not let in any more. ``evicted``: its room was needed. ``expired``: it was
silent for too long."""


class Share(Protocol):
    """One session's part in a pass."""

    @property
    def session(self) -> Session: ...
    @property
    def run(self) -> Run: ...
    @property
    def verifies(self) -> bool:
        """Whether it was a round; else a piece of a prompt."""

    @property
    def hints(self) -> Sequence[Hint]:
        """Those sent in this pass."""

    @property
    def round(self) -> Round | None:
        """The round that was judged; ``None`` if it was not: a piece of a prompt, a session that was closed in the middle of
        the pass, or a round that needs another pass, since an exit had wrongly dropped rows of it."""

    @property
    def verdict(self) -> Verdict | None:
        """How it was judged, waiting and computing time included; ``None`` as for :attr:`round`."""

    @property
    def committed(self) -> int:
        """Tokens that became final."""


@dataclass(slots=True)
class PassSeen:
    """One pass, when it is over. Instants are nanoseconds of the engine's clock."""

    begun_ns: int
    """When the scheduler began to choose."""
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    """For each exit that was stopped at, and for full depth: layers computed by then, begun, ended."""
    ended_ns: int = 0
    model_ns: int = 0
    """Spent in the target; the rest of the time is the engine's own."""
    rows: int = 0
    waiting: int = 0
    """Sessions that wanted rows in this pass and got none."""
    shares: Sequence[Share] = ()


class Observer(Protocol):
    """Told of what happens; must be quick and must not raise."""

    def opened(self, session: Session, how: Opening) -> None:
        """A session has been opened or resumed; ``session.heard_us`` is when its device asked for it."""

    def closed(self, session: Session, why: Closing) -> None:
        """A session's room is given back."""

    def heard(self, session: Session, message: Draft | Decode) -> None:
        """A round has arrived; ``session`` does not know of it yet."""

    def passed(self, seen: PassSeen) -> None:
        """A pass is over and its answers are sent."""

    def refused(self, code: str, session: SessionId, device: str, *, audited: bool = False) -> None:
        """A device was answered with a failure. On any thread.

        Args:
            code: of the error.
            session: which it was about, or empty.
            device: who authentication says it is, or empty.
            audited: the audit log has a line about it.
        """


class Unobserved:
    """Nobody looks on; also the base of observers to whom only some moments matter."""

    def opened(self, session: Session, how: Opening) -> None:
        """See :class:`Observer`."""

    def closed(self, session: Session, why: Closing) -> None:
        """See :class:`Observer`."""

    def heard(self, session: Session, message: Draft | Decode) -> None:
        """See :class:`Observer`."""

    def passed(self, seen: PassSeen) -> None:
        """See :class:`Observer`."""

    def refused(self, code: str, session: SessionId, device: str, *, audited: bool = False) -> None:
        """See :class:`Observer`."""


class Together:
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def opened(self, session: Session, how: Opening) -> None:
        """Tell them all."""
        for observer in self._observers:
            observer.opened(session, how)

    def closed(self, session: Session, why: Closing) -> None:
        """Tell them all."""
        for observer in self._observers:
            observer.closed(session, why)

    def heard(self, session: Session, message: Draft | Decode) -> None:
        """Tell them all."""
        for observer in self._observers:
            observer.heard(session, message)

    def passed(self, seen: PassSeen) -> None:
        """Tell them all."""
        for observer in self._observers:
            observer.passed(seen)

    def refused(self, code: str, session: SessionId, device: str, *, audited: bool = False) -> None:
        """Tell them all."""
        for observer in self._observers:
            observer.refused(code, session, device, audited=audited)
