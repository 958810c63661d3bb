"""Drafting beside the cloud's own stream: would the draft have been right?

While the cloud writes alone, nobody waits for the device. A token drafted behind the committed text is never sent; when the
cloud's own comes, the two are compared, and the planner knows what speculation would be worth without having tried it. On one
machine the cloud is slower meanwhile: the planner says for how long that may go on.
"""

from __future__ import annotations

from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import Position

from .path import Path
from .planner import Planner

__all__ = ["Shadow"]


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

    @property
    def wants_token(self) -> bool:
        """Whether to draft a token now, to be compared with the cloud's next one."""
        path, length = self._path, self._ledger.length
        return (
            self._planner.curious and path.start == len(path.tokens) == length < self._limit - 1 and not path.exhausted
        )

    def compare(self) -> None:
        """The cloud has written on: judge what was drafted, and follow."""
        path, tokens = self._path, self._ledger.tokens
        if path.probabilities and path.start < len(tokens):
            right = path.tokens[path.start] == tokens[path.start]
            self._planner.judged(path.probabilities[:1], int(right), not right)
        elif not self._planner.curious:
            return
        path.catch_up(tokens)

    def keep_near(self, most: int) -> None:
        """Follow if the cloud is ahead by so many tokens, so that the drafter can read them while it has time."""
        if self._ledger.length >= len(self._path.tokens) + most:
            self._path.catch_up(self._ledger.tokens)
