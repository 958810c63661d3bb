"""What looking at the cloud's own stream costs (:mod:`.shadow`), and whether it may go on.

Where device and cloud share a machine, the cloud is slower while the device computes. The gaps between the cloud's tokens
show by how much, with and without. The first tokens may cost what they will; then it is paid out of a share of the time.
"""

from __future__ import annotations

from .measuring import Estimate

__all__ = ["Looking"]

_SHARE = 0.02
"""Of the time passed, what looking may cost…"""
_SAVED = 16.0
"""…and so many tokens' time of it may be saved up."""
_WORTHWHILE = 6.0
"""Looks that must be paid for at the beginning of a text."""
_LATE = 2
"""Tokens that are not where they would be when the device computes: whoever does takes one late and the next early."""
_FREEZE = 4.0
"""Passes that a token counts for at most: a machine that stands still for a moment says nothing."""


class Looking:
    """The budget of one connection. Milliseconds."""

    FREE = 48
    """Tokens whose comparison may cost what it will."""

    def __init__(self) -> None:
        self.allowed = True
        """In this text."""
        self._budget_ms = 0.0
        self._slowed_ms = Estimate(0.0, 32.0)
        """What it adds to a token of the cloud's: nothing, unless both share a machine."""
        self._between_ms = Estimate(0.0, 32.0)
        self._late = 0
        """How many of the next tokens are late or early, since the device computed."""
        self._pass_ms: float | None = None
        """Of the last token, if it was one of a stream that nothing disturbed."""
        self._undisturbed_ms: float | None = None
        """What the last token would have taken, if the device computed beside it."""

    @property
    def between_ms(self) -> float:
        """Between two tokens of the cloud's, beside its passes."""
        return max(0.0, self._between_ms.value)

    @property
    def disturbing(self) -> bool:
        """Whether the next token is not where it would be."""
        return self._late > 0

    def begin(self, *, known: bool) -> None:
        """A text begins; ``known``: :attr:`FREE` tokens or more have been compared."""
        self.allowed = not known or self._budget_ms >= _WORTHWHILE * max(0.0, self._slowed_ms.value)

    def disturb(self) -> None:
        """The device computes while the cloud writes."""
        self._late = _LATE

    def answered(self, streamed_ms: float | None, alone_ms: float) -> None:
        """A verdict came.

        Args:
            streamed_ms: its pass, if it is a token of a stream that goes on.
            alone_ms: what a token of the cloud alone is believed to take.
        """
        self._pass_ms = None if self._late else streamed_ms
        self._undisturbed_ms = alone_ms if self._late and streamed_ms is not None else None
        self._late = max(0, self._late - 1)

    def progressed(self, elapsed_ms: float, alone_ms: float, *, known: bool) -> None:
        """The same verdict was committed ``elapsed_ms`` after the one before; pay for what was looked at."""
        self._budget_ms = min(self._budget_ms + _SHARE * elapsed_ms, _SAVED * alone_ms)
        if self._pass_ms is not None:
            # Jitter makes gaps of nothing and long ones: only their mean says anything.
            self._between_ms.add(min(elapsed_ms, _FREEZE * self._pass_ms) - self._pass_ms)
        if self._undisturbed_ms is None:
            return
        undisturbed_ms, self._undisturbed_ms = self._undisturbed_ms, None
        slowed_ms = min(elapsed_ms, _FREEZE * undisturbed_ms) - undisturbed_ms
        self._slowed_ms.add(slowed_ms)
        if known:
            self._budget_ms -= slowed_ms
            self.allowed = self.allowed and self._budget_ms >= -undisturbed_ms  # one token on credit: gaps jitter
