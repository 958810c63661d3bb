"""The next draft: how long it gets, when it leaves, and what verdicts and hints make of it.

The loop says when; here is what follows for the :class:`~foredraft_edge.path.Path`. A draft leaves when its verdict can be
waited for no better than by asking: at once where nothing is in flight, and before the verdict it builds on (a *chained*
round) where what it assumes is probable enough.
"""

from __future__ import annotations

from collections.abc import Mapping

from foredraft_shared.messages import Decode, Draft, Hint, Position

from .accounts import Accounts, Flight
from .conversation import Conversation
from .options import LoopOptions
from .path import Path
from .planner import Plan, Planner

__all__ = ["Drafting"]


class Drafting:
    """What a text's drafter is working at.

    Args:
        conversation: the text's, for its ledger and what is in flight.
        limit: the text ends before this position.
        max_draft: longest draft the server takes, while it has not said so itself.
    """

    def __init__(
        self,
        path: Path,
        conversation: Conversation,
        planner: Planner,
        accounts: Accounts,
        options: LoopOptions,
        limit: Position,
        max_draft: int,
    ) -> None:
        self.path = path
        self._conversation = conversation
        self._ledger = conversation.ledger
        self._planner = planner
        self._accounts = accounts
        self._options = options
        self._limit = limit
        self._max_draft = max_draft

    # --- its length

    @property
    def complete(self) -> bool:
        """Whether the draft needs no further token."""
        path = self.path
        if path.exhausted:
            return True
        if path.guess_missing:
            return False
        idle = path.start == self._ledger.length
        return len(path.probabilities) >= self._room or self._planner.enough(path.probabilities, idle=idle)

    @property
    def _room(self) -> int:
        """Longest draft that can be sent: the last token of a text is the target's own."""
        welcome = self._conversation.link.welcome
        longest = self._max_draft if welcome is None else min(self._max_draft, welcome.max_draft)
        return max(0, min(self._limit - self.path.start - 1, longest))

    def grow(self) -> None:
        """Draft one more token, if there is one."""
        elapsed_ms = self.path.grow(self._limit)
        if elapsed_ms is not None:
            self._accounts.drafted(elapsed_ms)

    # --- sending it

    def ready(self, *, whatever_there_is: bool) -> bool:
        """Whether the draft is to leave now.

        Args:
            whatever_there_is: it does not have to be complete, but nothing may be in flight.
        """
        path, in_flight = self.path, self._ledger.in_flight
        if path.start >= self._limit or not (whatever_there_is or self.complete):
            return False
        if path.start == self._ledger.length:
            return not in_flight
        return (
            not whatever_there_is
            and self._options.ahead
            and len(in_flight) < self._options.window
            and bool(path.probabilities)
            and self._planner.survival([*self._in_flight(), *path.guessed]) >= self._options.chain_confidence
        )

    def send(self, plan: Plan) -> None:
        """Send the draft; another one begins behind it."""
        path, room = self.path, self._room
        assuming = path.tokens[self._ledger.length : path.start]
        probabilities, guess = tuple(path.probabilities[:room]), path.guess_probability
        began_ns, ended_ns, drafting_ns = path.began_ns, path.ended_ns, path.drafting_ns
        draft = self._ledger.propose(path.take(room), assuming=assuming)
        flight = self._accounts.begin(
            draft,
            plan,
            probabilities=probabilities,
            guess_probability=guess if assuming else None,
            reads_prompt=draft.base == self._conversation.cold_at,
        )
        flight.record.chained = bool(assuming)
        if began_ns is not None:
            self._accounts.drafting(flight, began_ns, ended_ns, drafting_ns)
        self._accounts.statistics.chained += bool(assuming)
        self._conversation.dispatch(flight)

    def _in_flight(self) -> list[float]:
        """The draft's probability of every token that rounds in flight add to the text."""
        return [each for flight in self._conversation.flights.values() for each in flight.outlook]

    # --- what the server says of it

    def judged(self, flight: Flight, before: Position, pending: Mapping[int, Draft | Decode]) -> None:
        """A verdict has committed what stands behind ``before``; ``pending`` are the rounds still in flight."""
        path, ledger, statistics = self.path, self._ledger, self._accounts.statistics
        following = next((request for request in pending.values() if request.base == ledger.length), None)
        foreseen = path.agree(ledger.tokens, before, following.tokens if isinstance(following, Draft) else ())
        if not pending and path.start > ledger.length:
            path.reset(ledger.tokens)  # what it was to follow has been dropped: nobody will judge that any more
        flight.record.guess_hit = foreseen if self._options.ahead else None
        flight.record.ready = len(path.probabilities)
        statistics.guesses += self._options.ahead
        statistics.guess_hits += self._options.ahead and foreseen
        flight.record.discarded = path.discarded - statistics.discarded
        statistics.discarded = path.discarded

    def hinted(self, flight: Flight, hint: Hint) -> None:
        """Turn the path if the hint about the oldest round contradicts it and is surer than it."""
        path, request = self.path, flight.request
        if not self._options.ahead or not self._options.hints:
            return
        if not isinstance(request, Draft) or hint.accepted > len(request.tokens):
            return
        expected = (*request.tokens[: hint.accepted], hint.token)
        held = tuple(path.tokens[request.base : request.base + len(expected)])
        if held == expected:
            return
        unguessed = held == expected[:-1]  # the path ends before the token that the hint tells
        if unguessed or hint.confidence > self._planner.survival([*flight.probabilities, *path.guessed]):
            path.turn(request.base, expected, hint.confidence)
            flight.record.restarted_on_hint = not unguessed
            self._accounts.statistics.restarts_on_hint += not unguessed

    def outlook(self) -> list[float]:
        """The probability of every token that the path holds behind the committed text, as far as they are known."""
        return [*self._in_flight(), *self.path.guessed, *self.path.probabilities]
