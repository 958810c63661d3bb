"""What was asked of the server about one text, and what to do when it does not answer.

The loop decides what to ask; here it is sent, repeated while the :class:`~foredraft_edge.watch.Watch` says so, and begun
again with a server that has lost the text. Nothing here looks into a draft or touches the path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeAlias

from foredraft_shared.errors import ForedraftError, LinkLost, Overloaded
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import (
    Close,
    Decode,
    Draft,
    FinishReason,
    Open,
    Pong,
    Position,
    Resume,
    SamplingParams,
    TokenId,
)

from .accounts import Accounts, Flight
from .deadlines import Deadlines
from .link import Link, SessionMessage
from .planner import Measurements
from .watch import SessionState, Watch

__all__ = ["Conversation", "Journal", "OnDisconnect", "Request"]

OnDisconnect: TypeAlias = Literal["wait", "edge", "fail"]
"""When the server is gone: ``wait`` for it, go on alone on the ``edge`` until it is back, or ``fail`` at once."""

_STALLED_TIMEOUTS = 10
"""A server that answers pings but no rounds is waited for so many times longer than one that is silent."""


_PONG_NS = 1_000_000_000
_FEW = 3
"""Samples that a round trip is worth when a pong tells of it."""


_U32 = 2**32 - 1


class Journal(Protocol):
    """What remembers a text beyond the life of this process. Called before the caller sees what it is told."""

    def committed(self, tokens: Sequence[TokenId], finish: FinishReason) -> None:
        """These tokens have become final."""

    def epoch(self, epoch: int) -> None:
        """The text is in this epoch now."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, whenever the text is opened or resumed."""

    params: SamplingParams
    max_tokens: int
    stop_tokens: tuple[TokenId, ...]
    hints: bool
    traceparent: str = ""
    """W3C trace context, or empty."""
    lossy_exit: int = 0
    """The layer that the caller lets the server take as final; 0: full depth only."""


@dataclass(slots=True)
class Conversation:
    """One text's messages.

    Args:
        timeout_s: silence after which the server is given up.
        clock_ns: a monotonic clock.
    """

    link: Link
    ledger: Ledger
    request: Request
    accounts: Accounts
    measured: Measurements
    on_disconnect: OnDisconnect
    timeout_s: float
    deadlines: Deadlines
    clock_ns: Callable[[], int]
    journal: Journal | None = None
    watch: Watch = field(init=False)
    flights: dict[int, Flight] = field(default_factory=dict)
    """Rounds without a verdict, oldest first."""
    cold_at: Position = 0
    """A round that begins here waits until the server has read the text."""
    _refusal: ForedraftError | None = None
    """Why the server did not want the text when it was last asked."""
    _nonce: int = 0
    _asked_ns: int | None = None
    """When the pong was asked for that measures the round trip."""

    def __post_init__(self) -> None:
        self.watch = Watch(self.clock_ns())
        self.cold_at = self.ledger.length

    # --- asking

    def open(self) -> None:
        """Begin the text, or take it up again."""
        ledger, request = self.ledger, self.request
        if not self.link.known:
            with suppress(LinkLost):
                self.link.hello()
        if ledger.written:
            self._send_resume()
            return
        prompt = tuple(ledger.tokens)
        self._send(
            Open(
                ledger.session, prompt, request.params, request.max_tokens, request.stop_tokens, ledger.epoch,
                request.hints, request.traceparent, request.lossy_exit,
            )
        )  # fmt: skip

    def dispatch(self, flight: Flight) -> None:
        """Send a round; it is in flight until its verdict."""
        self.flights[flight.request.round] = flight
        known = self.measured.rtt_ms
        round_trip_s = (known.value if known.samples else self.link.rtt_ms) / 1000.0
        self.watch.patience(4 * (round_trip_s + self.measured.verify_ms.value / 1000.0), 3 * round_trip_s)
        self.watch.asked(self.clock_ns(), reads=flight.reads_prompt)
        self._send(flight.request, flight)

    def resume(self) -> None:
        """The server does not hold our text (any more): give it all of it, in a new epoch. Nothing may be in flight."""
        self.accounts.statistics.resumes += 1
        self.ledger.raise_epoch()
        if self.journal is not None:
            self.journal.epoch(self.ledger.epoch)
        self._send_resume()

    def measure(self) -> None:
        """Ask for a pong, to know the round trip where no round will tell it."""
        self._asked_ns = self.clock_ns()
        self._ping()

    @property
    def measuring(self) -> bool:
        """A pong is awaited; whoever computes meanwhile would make it late. Not for long: it may be lost."""
        return self._asked_ns is not None and self.clock_ns() - self._asked_ns < _PONG_NS

    def ponged(self, pong: Pong, now_ns: int) -> None:
        """A pong came: a sample of the round trip, if it was asked for to be one."""
        if self._asked_ns is not None and pong.nonce == self._nonce:
            self.measured.rtt_ms.doubt(_FEW)  # while the cloud writes, hardly anything else tells of it
            self.measured.rtt_ms.add((now_ns - self._asked_ns) / 1e6)
            self._asked_ns = None

    def close(self) -> None:
        """The text is over."""
        self.watch.close()
        with suppress(LinkLost):  # nobody there: the server forgets the session by itself
            self.link.send(Close(self.ledger.session, self.ledger.epoch))

    # --- listening

    def receive(self, timeout_s: float) -> tuple[SessionMessage | None, int]:
        """The next message, and its bytes; ``None`` after ``timeout_s``."""
        counters = self.link.transport.counters
        before = counters.bytes_received
        message = self.link.receive(timeout_s)
        size = counters.bytes_received - before
        self.accounts.statistics.bytes_down += size
        return message, size

    def is_back(self, now_ns: int) -> bool:
        """Something was heard: whether the server had been gone."""
        if not self.watch.heard(now_ns):
            return False
        self.accounts.statistics.outages += 1
        return True

    def take_up(self) -> None:
        """The server is back. Is it the same one? What has no answer is asked again."""
        with suppress(LinkLost):
            self.link.hello()
        if self._refusal is not None:
            self._refusal = None
            self.resume()
        else:
            self._repeat()

    def refused(self, error: ForedraftError, now_ns: int) -> None:
        """The server does not want the text: it is asked again when it says so, if the caller can wait.

        Raises:
            ForedraftError: ``error``.
        """
        patient = self.on_disconnect != "fail"
        if not (patient and isinstance(error, Overloaded) and error.retry_after_ms > 0):
            raise error
        self._refusal = error
        self.watch.refused(now_ns, error.retry_after_ms / 1000.0)

    def silence(self, now_ns: int) -> LinkLost | None:
        """Nothing came: see what that means by now, and act on it. Returns why the server is to be given up, if it is.

        Raises:
            LinkLost, Overloaded: it is gone, or does not want the text, and the caller is not to wait.
        """
        for action in self.watch.tick(now_ns):
            if action == "repeat":
                self._repeat()
            elif action == "reconnect":
                self.link.reconnect()
            else:
                self._asked_ns = None
                self._ping()
        if self.watch.state is SessionState.EDGE_ONLY and self.on_disconnect == "fail":
            raise self._loss("does not answer")
        silent_s, stalled_s = ((now_ns - since) / 1e9 for since in (self.watch.heard_ns, self.watch.answered_ns))
        if self._refusal is not None:
            if stalled_s > self.timeout_s and self.on_disconnect == "wait":
                raise self._refusal
        elif silent_s > self.timeout_s:
            return self._loss(f"has been silent for {silent_s:.0f} s")
        elif stalled_s > _STALLED_TIMEOUTS * self.timeout_s:
            return self._loss(f"answers, but has not advanced the text for {stalled_s:.0f} s")
        return None

    # --- inside

    def _ping(self) -> None:
        self._nonce += 1
        with suppress(LinkLost):
            self.link.send_ping(self._nonce)

    def _send(self, message: Open | Resume | Draft | Decode, flight: Flight | None = None) -> None:
        counters = self.link.transport.counters
        before = counters.bytes_sent
        if isinstance(message, Draft | Decode) and math.isfinite(left_ms := self.deadlines.left_ms):
            message = replace(
                message, deadline_ms=min(max(1, round(left_ms)), _U32)
            )  # what has little time left is verified first
        try:
            self.link.send(message)
        except LinkLost:  # there is no connection; what is not answered is sent again
            self.watch.unreachable(self.clock_ns())
        self.accounts.sent(flight, counters.bytes_sent - before)

    def _repeat(self) -> None:
        """Send again everything that is in flight. The server recognises what it has already."""
        for number, flight in list(self.flights.items()):
            if isinstance(flight.request, Decode) and flight.request.base < self.ledger.length:
                # The server tells again from where it is asked to, and not without end: what we have is not asked for.
                del self.flights[number]
                flight.request = self.ledger.renew(flight.request)
                flight.record.round = flight.request.round
                self.flights[flight.request.round] = flight
            self.accounts.statistics.repeats += 1
            flight.repeated = True
            self._send(flight.request, flight)

    def _send_resume(self) -> None:
        ledger, request = self.ledger, self.request
        self.cold_at = ledger.length
        self._send(
            Resume(
                ledger.session, ledger.epoch, tuple(ledger.tokens), ledger.prompt_length, request.params,
                request.max_tokens, request.stop_tokens, request.hints, request.traceparent, request.lossy_exit,
            )
        )  # fmt: skip

    def _loss(self, what: str) -> LinkLost:
        return LinkLost(
            f"{self.link.where} {what}; {len(self.ledger.written)} tokens were written until then. "
            "Check the server and the network, then ask again."
        )
