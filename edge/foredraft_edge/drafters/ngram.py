"""Prompt look-up: what followed the last time these words were said. No model, microseconds a token.

The longest suffix of the text, of up to ``longest`` tokens, that occurred before is looked up, and the token that
followed its most recent occurrence is proposed. Good where a text repeats itself: code, quotations, extraction, robot plans.
(Idea: A. Saxena, "Prompt Lookup Decoding", 2023.)
"""

from __future__ import annotations

from collections.abc import Iterator

from foredraft_shared.errors import UsageError
from foredraft_shared.messages import Position, SamplingParams, TokenId

from .base import Proposal
from .text import Text

__all__ = ["NgramDrafter"]


class NgramDrafter(Text):
    """Proposes what followed the most recent occurrence of the text's own end.

    Args:
        vocabulary: fingerprint of the target's tokenizer; any will do, so it may be empty.
        longest: longest suffix looked up, in tokens.
        shortest: shortest one; a match of one token is a poor guess, but a free one.
    """

    def __init__(self, vocabulary: str = "", *, longest: int = 4, shortest: int = 2) -> None:
        if not 1 <= shortest <= longest:
            raise UsageError(f"n-gram lengths {shortest} to {longest} make no sense; give 1 <= shortest <= longest.")
        super().__init__(vocabulary)
        self._lengths = range(longest, shortest - 1, -1)
        # For each n: an n-gram → the positions after its occurrences, ascending. The last may be the text's own end.
        self._seen: dict[tuple[TokenId, ...], list[Position]] = {}
        self._indexed = 0

    def draft(self, limit: int, params: SamplingParams) -> Iterator[Proposal]:
        """Propose while the end of the text occurred before; the noise of ``params`` plays no part."""
        for _ in range(limit):
            found = self._look_up()
            if found is None:
                return
            token, length = found
            self._text.append(token)
            # Not a measured number: how often such matches hold in practice, rising with their length.
            yield Proposal(token, 1.0 - 0.5 ** min(length, 4))

    def _look_up(self) -> tuple[TokenId, int] | None:
        self._index()
        text = self._text
        for length in self._lengths:
            if length >= len(text):
                continue
            places = self._seen[tuple(text[-length:])]
            if len(places) > 1:  # the last place is the end of the text itself
                return text[places[-2]], length
        return None

    def _index(self) -> None:
        for end in range(self._indexed + 1, len(self._text) + 1):
            for length in self._lengths:
                if length <= end:
                    self._seen.setdefault(tuple(self._text[end - length : end]), []).append(end)
        self._indexed = len(self._text)

    def _drop(self, length: Position) -> None:
        kept = min(length, self._indexed)
        if not kept:
            self._seen.clear()
        else:
            for end in range(self._indexed, kept, -1):
                for size in self._lengths:
                    if size <= end:
                        words = tuple(self._text[end - size : end])
                        self._seen[words].pop()
                        if not self._seen[words]:  # or it would be kept for as long as the drafter
                            del self._seen[words]
        self._indexed = kept
