"""What the caller has been told of a text that nobody has verified yet."""

from __future__ import annotations

from collections.abc import Sequence

from foredraft_shared.messages import Position, TokenId

__all__ = ["Provisional"]


class Provisional:
    """Provisional tokens that were handed out, by position, until something final stands there."""

    def __init__(self) -> None:
        self._told: dict[Position, TokenId] = {}

    def __len__(self) -> int:
        return len(self._told)

    def untold(self, tokens: Sequence[TokenId], start: Position) -> tuple[Position, tuple[TokenId, ...]]:
        """The part of ``tokens[start:]`` that the caller does not know yet, and where it begins; it counts as told now."""
        end = len(tokens)
        while start < end and self._told.get(start) == tokens[start]:
            start += 1
        if start < end:
            self._void(start)
            self._told.update(zip(range(start, end), tokens[start:end], strict=True))
        return start, tuple(tokens[start:end])

    def settle(self, start: Position, tokens: Sequence[TokenId]) -> tuple[Position, ...]:
        """``tokens`` are final from ``start`` on. Returns where the caller had been told something else."""
        revised = tuple(
            position for position, token in enumerate(tokens, start) if self._told.get(position, token) != token
        )
        for position in range(start, start + len(tokens)):
            self._told.pop(position, None)
        if revised:
            self._void(revised[0])  # what followed a wrong token followed from it
        return revised

    def _void(self, start: Position) -> None:
        for position in [position for position in self._told if position >= start]:
            del self._told[position]
