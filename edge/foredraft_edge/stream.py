"""One answer as it is written: commits turned into tokens with their text and origin."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Literal

from typing_extensions import Self

from foredraft_shared.errors import DeadlineMissed, PromptTooLong, UsageError
from foredraft_shared.messages import FinishReason, Position, SamplingParams, TokenId
from foredraft_shared.models import Detokenizer, Tokenizer

from .deadlines import deadline_in
from .drafters.base import Drafter
from .loop import Commit, LoopStatistics, RoundLoop
from .planner import Measurements
from .watch import SessionState

__all__ = ["Generation", "Origin", "TokenEvent", "TokenStream", "standing", "write_alone"]

Origin = Literal["target", "edge", "exit"]
"""Who vouches for a token: the target model, or only the draft model, or an early exit (lossy)."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One token: a final one, or a provisional one that comes again at the same position when it has been verified."""

    token: TokenId
    position: Position
    """Absolute, prompt included."""
    text: str
    """What it adds to the text: may be empty while a character is incomplete."""
    origin: Origin
    drafted: bool
    """Whether the edge had drafted it."""
    finish: FinishReason = ""
    """On the last token: why the text ends there. What was provisional behind it is void."""
    provisional: bool = False
    """The server is gone and nobody has verified the token."""
    revised: bool = False
    """Another token had been given provisionally; what was provisional behind it is void."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole answer."""

    text: str
    tokens: tuple[TokenId, ...]
    """Without the prompt; the stop token included."""
    origins: tuple[Origin, ...]
    """One a token. ``edge``: never verified, since the server did not come back in time."""
    finish: FinishReason
    """``stop``, ``length``, or ``deadline``."""
    statistics: LoopStatistics
    measured: Measurements


def standing(events: Iterable[TokenEvent]) -> list[TokenEvent]:
    """What stands at the end: of each position the last event, without what revisions and the end have made void."""
    text: dict[Position, TokenEvent] = {}
    for event in events:
        if event.provisional or event.revised or event.finish:
            for position in [position for position in text if position > event.position]:
                del text[position]
        text[event.position] = event
    return [text[position] for position in sorted(text)]


class TokenStream(Iterator[TokenEvent]):
    """The tokens of one answer, as they become final. Made by :meth:`foredraft_edge.client.Client.stream`.

    Args:
        source: the loop that writes with the cloud, or what :func:`write_alone` gives.
        prompt: what the answer follows.
        tokenizer: for the text of tokens; without one every text is empty.
        measured: what the planner of this answer knows.
        hold: entered while the answer is written.
        restored: the beginning of the answer, if it was saved before.
        finish: why the answer had ended then.
    """

    def __init__(
        self,
        source: RoundLoop | Generator[Commit, None, None],
        prompt: tuple[TokenId, ...],
        tokenizer: Tokenizer | None,
        measured: Measurements,
        hold: Callable[[], AbstractContextManager[None]],
        restored: tuple[TokenId, ...] = (),
        finish: FinishReason = "",
    ) -> None:
        self.prompt = prompt
        self.restored = restored
        """What had been written before; the events begin behind it."""
        self.measured = measured
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer) if tokenizer is not None else None
        self._ahead: Detokenizer | None = None
        """Behind the provisional text."""
        self._provisional: dict[Position, TokenId] = {}
        """Provisional tokens handed out and not yet replaced."""
        self.restored_text = "".join(
            self._push(self._detokenizer, token, finish if index == len(restored) - 1 else "")
            for index, token in enumerate(restored)
        )
        self._stopped = False
        self._loop = source if isinstance(source, RoundLoop) else None
        self._finish: FinishReason = finish
        self._end: Position = len(prompt) + len(restored)
        """Behind the last token handed out."""
        commits = source.run() if isinstance(source, RoundLoop) else source
        origin: Origin = "edge" if self._loop is None else "exit" if self._loop.lossy_exit else "target"
        self._events = self._write(commits, origin, hold)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TokenEvent:
        event = next(self._events)
        assert event is not None, "a step's deadline passed outside of a step"
        return event

    def take(self, count: int, deadline_ms: float) -> list[TokenEvent]:
        """The next tokens, for a caller that has to go on at a certain time, such as a control loop.

        Args:
            count: tokens wanted behind those handed out before.
            deadline_ms: milliseconds from now; what there is by then is returned, however little.

        Returns:
            Events as iteration gives them, provisional tokens restated as final ones among them. The text's last event
            has a ``finish``; behind the end of the text, nothing.

        Raises:
            DeadlineMissed: there was nothing by the deadline. The text can still be taken on.
            LinkLost, ServerRefused: as iteration does.
        """
        if self._loop is None:
            raise UsageError("steps with a deadline need a server; in mode edge, iterate instead.")
        if not isinstance(count, int) or count < 1:
            raise UsageError(f"cannot take {count!r} tokens; ask for a whole number of them, at least one.")
        due_ns = deadline_in(deadline_ms, time.perf_counter_ns())
        until = self._end + count
        self._loop.step(until, due_ns)
        events: list[TokenEvent] = []
        for event in self._events:
            if event is not None:
                events.append(event)
            elif not events:
                raise DeadlineMissed(
                    f"no token within {deadline_ms:g} ms (the server is {self.state}); allow more time"
                    + (
                        ", or go on with what there is."
                        if self._loop.goes_on_alone
                        else ", or let the draft model go on alone (on_disconnect='edge')."
                    )
                )
            if event is None or self._end >= until:
                break
        self._loop.step(0, None)
        return events

    def close(self) -> None:
        """Stop writing; the server frees the session."""
        self._events.close()

    def stopper(self) -> Callable[[], None]:
        """A call that stops the writing from any thread within a few hundredths of a second: whoever iterates finds the end
        then, and no ``finish``. To be asked for before the first token."""
        if self._loop is not None:
            self._loop.expect_stop()

        def stop() -> None:
            self._stopped = True
            if self._loop is not None:
                self._loop.stop()

        return stop

    def whole(self) -> Generation:
        """Iterate to the end: the answer that stands then."""
        events = standing(self)
        return Generation(
            "".join(event.text for event in events),
            tuple(event.token for event in events),
            tuple(event.origin for event in events),
            self.finish,
            self.statistics,
            self.measured,
        )

    @property
    def state(self) -> SessionState:
        """How the text stands to its server."""
        return self._loop.state if self._loop else SessionState.EDGE_ONLY

    @property
    def has_server(self) -> bool:
        """Whether there is anybody to verify the text; not in mode edge."""
        return self._loop is not None

    @property
    def finish(self) -> FinishReason:
        """Why the text has ended; empty while it goes on."""
        return self._loop.finish if self._loop else self._finish

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
    ) -> Generator[TokenEvent | None, None, None]:
        """The events; ``None`` when the deadline of a step has passed."""
        with hold(), closing(commits):
            for commit in commits:
                if self._stopped:
                    return
                if not commit.tokens:
                    yield None
                for index, token in enumerate(commit.tokens):
                    position = commit.position + index
                    finish = self._finish = commit.finish if index == len(commit.tokens) - 1 else ""
                    revised = position in commit.revised
                    if commit.provisional:
                        if index == 0:
                            self._ahead = self._detokenizer_before(position)
                        self._provisional[position] = token
                        text = self._push(self._ahead, token, finish)
                    else:
                        self._provisional.pop(position, None)
                        text = self._push(self._detokenizer, token, finish)
                    if commit.provisional or revised or finish:  # what was said of what lies behind is void
                        self._end = position + 1
                    self._end = max(self._end, position + 1)
                    yield TokenEvent(
                        token,
                        position,
                        text,
                        "edge" if commit.provisional else origin,
                        index < commit.drafted,
                        finish,
                        commit.provisional,
                        revised,
                    )

    def _detokenizer_before(self, position: Position) -> Detokenizer | None:
        """One that has seen the final text and the provisional one up to ``position``."""
        if self._detokenizer is None:
            return None
        detokenizer = self._detokenizer.copy()
        for before in sorted(self._provisional):
            if before < position:
                detokenizer.push(self._provisional[before])
        return detokenizer

    def _push(self, detokenizer: Detokenizer | None, token: TokenId, finish: FinishReason) -> str:
        if detokenizer is None:
            return ""
        text = detokenizer.push(token) if finish != "stop" else ""  # a stop token is no part of the text
        return text + detokenizer.flush() if finish else text


def write_alone(
    drafter: Drafter, prompt: Sequence[TokenId], params: SamplingParams, max_tokens: int, stop_tokens: Sequence[TokenId]
) -> Generator[Commit, None, None]:
    """What the draft model writes by itself; never verified. It ends, as ``length``, also where the draft has no more to say.

    Raises:
        PromptTooLong: the draft cannot read so long a prompt.
        UsageError: the draft has nothing to say, while iterating.
    """
    context = getattr(drafter, "context", None)  # of those with a model
    if isinstance(context, int) and len(prompt) >= context:
        raise PromptTooLong(
            f"the prompt has {len(prompt)} tokens, but the draft's context is {context}; shorten it, or ask a server."
        )
    return _written_alone(drafter, prompt, params, max_tokens, stop_tokens)


def _written_alone(
    drafter: Drafter, prompt: Sequence[TokenId], params: SamplingParams, max_tokens: int, stop_tokens: Sequence[TokenId]
) -> Generator[Commit, None, None]:
    drafter.begin(prompt)
    position, held = len(prompt), None  # a token is held back until it is known whether it is the last
    for proposal in drafter.draft(max_tokens, params):
        if held is not None:
            yield Commit(position, (held,), 1, "")
            position += 1
        held = proposal.token
        if held in stop_tokens:
            break
    if held is None:
        raise UsageError("the draft has nothing to say to this; draft with a model, or ask a server.")
    yield Commit(position, (held,), 1, "stop" if held in stop_tokens else "length")
