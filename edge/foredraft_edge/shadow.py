"""Looking at the cloud's own stream: would the draft have been right?

While the cloud writes alone, nobody waits for the device. Every few tokens the drafter reads what was written, in one pass,
and says what it would have proposed in place of each token; so the planner knows what speculation would be worth without
having tried it. A pass over several tokens takes little more than one over a single token: it costs a fraction of
drafting them. The first few are drafted in earnest, behind the committed text and never sent, to know how long that takes.
On one machine the cloud is slower meanwhile: the planner says for how long that may go on.
"""

from __future__ import annotations

from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import Position

from .path import Path
from .planner import Planner

__all__ = ["Shadow"]

_TIMED = 6
"""Tokens drafted to know how long that takes."""
_TOGETHER = 8
"""Tokens of the cloud's that are looked at together, if the drafter can."""


class Shadow:
    """Of one text; to be used while the cloud writes.

    Args:
        limit: where the text ends at the latest.
    """

    def __init__(self, path: Path, ledger: Ledger, planner: Planner, limit: Position) -> None:
        self._path = path
        self._ledger = ledger
        self._planner = planner
        self._limit = limit
        self._seen: Position = ledger.length
        """Tokens before this have been compared, or never will be."""
        self._until: Position = ledger.length
        """Tokens before this are to be."""

    @property
    def wants_token(self) -> bool:
        """Whether to draft a token now, to be compared with the cloud's next one."""
        path, length = self._path, self._ledger.length
        return (
            self._timing
            and self._planner.curious
            and path.start == len(path.tokens) == length < self._limit - 1
            and not path.exhausted
        )

    @property
    def wants_review(self) -> bool:
        """Whether there is enough to be looked at, by a drafter that is near and has nothing else to read."""
        return self._pending and len(self._path.tokens) >= self._seen and not self._path.unread

    def begin(self) -> None:
        """The cloud writes from here on."""
        self._skip()

    def compare(self) -> None:
        """The cloud has written on: judge what was drafted, and follow."""
        path, tokens = self._path, self._ledger.tokens
        if path.probabilities and path.start < len(tokens):
            right = path.tokens[path.start] == tokens[path.start]
            self._planner.judged(path.probabilities[:1], int(right), not right)
            self._seen = self._until = path.start + 1
            path.catch_up(tokens)
        elif not self._planner.curious:
            self._skip()
        elif self._timing and not self._pending:
            path.catch_up(tokens)

    def review(self) -> int:
        """Look at a piece of what was written since the last time; returns the nanoseconds it took."""
        tokens = self._ledger.tokens
        if self._seen == self._until:
            self._until = len(tokens)
        proposals, elapsed_ns = self._path.review(tokens[: self._until], self._seen)
        for proposal, token in zip(proposals, tokens[self._seen :], strict=False):
            if proposal is not None:
                right = proposal.token == token
                self._planner.judged((proposal.probability,), int(right), not right)
        self._seen += len(proposals)
        return elapsed_ns

    def keep_near(self, most: int) -> None:
        """Follow if the cloud is ahead by so many tokens, so that the drafter can read them while it has time."""
        if self._ledger.length >= len(self._path.tokens) + most:
            self._path.catch_up(self._ledger.tokens)
            self._skip()  # it cannot look as fast as the cloud writes

    def _skip(self) -> None:
        """Leave what was written so far uncompared."""
        self._seen = self._until = self._ledger.length

    @property
    def _pending(self) -> bool:
        """Whether something is to be looked at."""
        written = self._ledger.length >= self._seen + _TOGETHER
        return (written or self._seen < self._until) and self._planner.curious

    @property
    def _timing(self) -> bool:
        return self._planner.measured.draft_ms.samples < _TIMED
