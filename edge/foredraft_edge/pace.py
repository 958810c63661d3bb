"""How fast a draft model reads, and how much of a text it should read at once.

A pass of a model over one token takes nearly as long as one over several. Whoever takes the time of a token for the same
in every pass reads shorter and shorter pieces, each of which seems to say that tokens are slow. So the two are told apart:
what a pass takes, and what each further token adds to it.
"""

from __future__ import annotations

__all__ = ["ReadingPace"]

_LONGEST_PIECE = 256
"""Tokens read at once, however fast it goes."""
_FIRST_PIECE = 8
_WEIGHT = 0.25
"""Of the latest measurement."""


class ReadingPace:
    """What reading takes, learnt from every pass. Milliseconds.

    Args:
        first_piece: tokens of a piece, before it is known what each adds.
    """

    def __init__(self, first_piece: int = _FIRST_PIECE) -> None:
        self._first_piece = first_piece
        self._pass_ms: float | None = None
        """Over a single token."""
        self._token_ms: float = 2.0
        """What each further one adds."""
        self._longest = first_piece
        """A piece is at most twice as long as the one before it: the first measurements may be of a cold model."""

    def piece(self, budget_ms: float) -> int:
        """How many tokens to read in about ``budget_ms``, but never so few that the passes take most of the time."""
        if self._pass_ms is None:
            return 1
        more = max(0.0, budget_ms - self._pass_ms, self._pass_ms) / self._token_ms
        return max(1, min(1 + int(more), self._longest, _LONGEST_PIECE))

    def piece_ms(self, budget_ms: float) -> float:
        """What the next piece will take, as far as is known."""
        if self._pass_ms is None:
            return budget_ms
        return self._pass_ms + (self.piece(budget_ms) - 1) * self._token_ms

    def along_ms(self, tokens: int) -> float:
        """What so many tokens add to a pass that is made anyway."""
        return tokens * self._token_ms

    def took(self, tokens: int, elapsed_ms: float) -> None:
        """A pass over so many tokens took so long."""
        if tokens <= 1:
            self._pass_ms = (
                elapsed_ms if self._pass_ms is None else self._pass_ms + _WEIGHT * (elapsed_ms - self._pass_ms)
            )
        elif self._pass_ms is not None:
            self._token_ms = max(0.01, (elapsed_ms - self._pass_ms) / (tokens - 1))
            self._longest = max(self._first_piece, 2 * tokens)
