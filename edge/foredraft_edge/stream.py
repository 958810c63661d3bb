"""One answer as it becomes final: commits turned into tokens with their text and origin."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Literal

from typing_extensions import Self

from foredraft_shared.messages import FinishReason, Position, SamplingParams, TokenId
from foredraft_shared.models import Detokenizer, Tokenizer

from .drafters.base import Drafter
from .loop import Commit, LoopStatistics, RoundLoop
from .planner import Measurements

__all__ = ["Generation", "Origin", "TokenEvent", "TokenStream", "write_alone"]

Origin = Literal["target", "edge", "exit"]
"""Who vouches for a token: the target model, or only the draft model, or an early exit."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One final token."""

    token: TokenId
    position: Position
    """Absolute, prompt included."""
    text: str
    """What it adds to the text: may be empty while a character is incomplete."""
    origin: Origin
    drafted: bool
    """Whether the edge had drafted it."""
    finish: FinishReason = ""
    """On the last token: why the text ends."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole answer."""

    text: str
    tokens: tuple[TokenId, ...]
    """Without the prompt; the stop token included."""
    origins: tuple[Origin, ...]
    """One a token."""
    finish: FinishReason
    statistics: LoopStatistics
    measured: Measurements


class TokenStream(Iterator[TokenEvent]):
    """The tokens of one answer, as they become final. Made by :meth:`foredraft_edge.client.Client.stream`.

    Args:
        source: the loop that writes with the cloud, or what :func:`write_alone` gives.
        prompt: what the answer follows.
        tokenizer: for the text of tokens; without one every text is empty.
        measured: what the planner of this answer knows.
        hold: entered while the answer is written.
    """

    def __init__(
        self,
        source: RoundLoop | Generator[Commit, None, None],
        prompt: tuple[TokenId, ...],
        tokenizer: Tokenizer | None,
        measured: Measurements,
        hold: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.prompt = prompt
        self.measured = measured
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer) if tokenizer is not None else None
        self._loop = source if isinstance(source, RoundLoop) else None
        commits = source.run() if isinstance(source, RoundLoop) else source
        self._events = self._write(commits, "target" if self._loop else "edge", hold)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TokenEvent:
        return next(self._events)

    def close(self) -> None:
        """Stop writing; the server frees the session."""
        self._events.close()

    @property
    def statistics(self) -> LoopStatistics:
        return self._loop.statistics if self._loop else LoopStatistics()

    @property
    def decision(self) -> str:
        """What the planner has chosen at present, and why."""
        return f"{self._loop.plan.mode}: {self._loop.plan.reason}" if self._loop else "edge: the caller asked for it"

    @property
    def provisional(self) -> str:
        """The text the device expects to follow: unverified, and often wrong."""
        if self._loop is None or self._tokenizer is None:
            return ""
        return self._tokenizer.decode(self._loop.provisional)

    def _write(
        self, commits: Generator[Commit, None, None], origin: Origin, hold: Callable[[], AbstractContextManager[None]]
    ) -> Generator[TokenEvent, None, None]:
        position = len(self.prompt)
        with hold(), closing(commits):
            for commit in commits:
                for index, token in enumerate(commit.tokens):
                    finish = commit.finish if index == len(commit.tokens) - 1 else ""
                    text = self._text(token, finish)
                    yield TokenEvent(token, position, text, origin, index < commit.drafted, finish)
                    position += 1

    def _text(self, token: TokenId, finish: FinishReason) -> str:
        if self._detokenizer is None:
            return ""
        text = self._detokenizer.push(token) if finish != "stop" else ""  # a stop token is no part of the text
        return text + self._detokenizer.flush() if finish else text


def write_alone(
    drafter: Drafter, prompt: Sequence[TokenId], params: SamplingParams, max_tokens: int, stop_tokens: Sequence[TokenId]
) -> Generator[Commit, None, None]:
    """What the draft model writes by itself; never verified."""
    drafter.begin(prompt)
    for index, proposal in enumerate(drafter.draft(max_tokens, params)):
        finish = "stop" if proposal.token in stop_tokens else "length" if index + 1 == max_tokens else ""
        yield Commit((proposal.token,), 1, finish)
        if finish:
            return
