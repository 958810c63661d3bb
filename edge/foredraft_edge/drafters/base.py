"""What a drafter is: anything that guesses the next tokens of a text and can take its guesses back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from foredraft_shared.messages import Position, SamplingParams, TokenId

__all__ = ["Drafter", "Proposal", "follow"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """One drafted token."""

    token: TokenId
    probability: float
    """The draft's own probability of ``token`` after the warps, in [0, 1]: how sure it is. Never sent to the cloud."""


class Drafter(Protocol):
    """Continues a text token by token and rewinds.

    A drafter holds one text. :meth:`begin` starts it, :meth:`extend` appends tokens decided elsewhere, :meth:`draft`
    appends tokens of its own, :meth:`rewind` takes tokens back. Nothing here may depend on how the text came about:
    after any sequence of calls, :meth:`draft` proposes what it would after ``begin(tokens)``, up to rounding.

    Proposals are made with the shared noise of :mod:`foredraft_shared.sampling` at the absolute position they stand at,
    so that draft and target agree as often as their distributions allow.
    """

    @property
    def vocabulary(self) -> str:
        """Fingerprint of the tokenizer whose ids it speaks."""

    @property
    def tokens(self) -> Sequence[TokenId]:
        """The text it holds, its own proposals included; not to be changed by the caller."""

    def begin(self, prompt: Sequence[TokenId]) -> None:
        """Drop everything and hold ``prompt``. May defer the work to the first :meth:`draft`."""

    def extend(self, tokens: Sequence[TokenId]) -> None:
        """Append ``tokens`` to the text. May defer the work to the next :meth:`draft`."""

    def read(self, limit: int) -> int:
        """Do up to ``limit`` tokens of the work that :meth:`begin` and :meth:`extend` deferred.

        Returns:
            How many tokens of such work are left; 0 when the next proposal costs no more than any other.
        """

    def draft(self, limit: int, params: SamplingParams) -> Iterator[Proposal]:
        """Propose up to ``limit`` tokens, one at a time, appending each to the text as it is yielded.

        The caller may stop iterating anywhere; a token not yielded is not part of the text. Ends early when the
        drafter has nothing to propose (an n-gram without a match, a full context).
        """

    def review(self, start: Position, params: SamplingParams) -> Sequence[Proposal | None]:
        """What :meth:`draft` would have proposed in place of each token of the text from ``start`` on, given those before
        it; ``None`` where nothing. The text stays as it is, and is read as by :meth:`read`.

        A model may do so in a pass over all of them, which takes far less time than drafting them one by one.
        """

    def rewind(self, length: Position) -> None:
        """Keep the first ``length`` tokens of the text and drop the rest, its cache included."""

    def close(self) -> None:
        """Free what it holds; may be called twice."""


def follow(drafter: Drafter, tokens: Sequence[TokenId], known: Position = 0) -> None:
    """Make ``drafter`` hold exactly ``tokens``, keeping the common beginning of its cache.

    Args:
        known: so many tokens it is known to hold already: they are not compared again.
    """
    held = drafter.tokens
    common = min(len(held), len(tokens))
    # Nearly always one is the beginning of the other, and comparing whole lists is a hundred times faster.
    if list(held[known:common]) != list(tokens[known:common]):
        common = next(index for index in range(known, common) if held[index] != tokens[index])
    if common < len(held):
        drafter.rewind(common)
    if common < len(tokens):
        drafter.extend(tokens[common:])
