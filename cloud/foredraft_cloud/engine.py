"""The cloud's engine: schedule → run → commit.

One page to read first. The engine owns the sessions and the target and is used from one thread, the *model thread*; it
knows nothing of sockets. :meth:`Engine.receive` takes what devices say; :meth:`Engine.step` does one pass: it chooses
rows (``schedule``), runs the target exit by exit and sends hints on the way (``run``), then judges each draft by the
full depth's picks, commits, and answers (``commit``).

Who else is in a pass changes when a token arrives, never which token it is: that is the target's promise, and nothing
here looks across sessions but the scheduler.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from foredraft_shared.errors import (
    ForedraftError,
    Overloaded,
    PromptTooLong,
    ServerRefused,
    SessionUnknown,
    UsageError,
)
from foredraft_shared.messages import (
    Close,
    CloudMessage,
    Decode,
    Draft,
    EdgeMessage,
    Failure,
    Hint,
    NeedResume,
    Open,
    Position,
    Resume,
    SessionId,
    TokenId,
    Verdict,
)

from .observer import Observer, PassSeen, Unobserved
from .options import EngineOptions, EngineStatistics
from .registry import Registry, identity
from .sessions import Round, Session
from .target import Logits, Run, Target

__all__ = ["Engine", "EngineOptions", "EngineStatistics"]

Send = Callable[[Any, CloudMessage], object]


@dataclass(slots=True)
class _Scheduled:
    session: Session
    run: Run
    verifies: bool
    hints: list[Hint] = field(default_factory=list)
    round: Round | None = None
    """The round that was judged, and how, once the pass is over."""
    verdict: Verdict | None = None
    committed: int = 0


class Engine:
    """Sessions and a target.

    Args:
        send: called with ``(peer, message)`` on the model thread for every answer, hints in the middle of a pass
            included; must not block.
        clock_ns: a monotonic clock.
        observer: told of what happens.
    """

    def __init__(
        self,
        target: Target,
        send: Send,
        options: EngineOptions | None = None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        observer: Observer | None = None,
    ) -> None:
        self._target = target
        self._send = send
        self._options = options or EngineOptions()
        self._clock_ns = clock_ns
        self._observer = observer or Unobserved()
        self.statistics = EngineStatistics(cache_limit_bytes=target.pages.use.limit_bytes)
        self._registry = Registry(target, self._options, self.statistics, self._observer)

    @property
    def sessions(self) -> int:
        """How many sessions are held, parked ones included."""
        return len(self._registry)

    @property
    def active(self) -> int:
        """How many of them are not parked, as of the latest step; from any thread."""
        return max(0, len(self._registry) - self.statistics.parked)

    @property
    def cache_usage(self) -> float:
        """Share of the cache that sessions have taken, from 0 to 1."""
        use = self._target.pages.use
        return use.held / use.pages

    # --- what devices say

    def receive(self, peer: Hashable, message: EdgeMessage, arrived_ns: int | None = None) -> None:
        """Take in one message of ``peer``; answers that need no model are sent at once.

        Args:
            arrived_ns: when it came, by the engine's clock: it may have waited for a pass to end. By default now.
        """
        arrived_us = (self._clock_ns() if arrived_ns is None else arrived_ns) // 1000
        try:
            if isinstance(message, Open | Resume):
                self._open(peer, message, arrived_us)
            elif isinstance(message, Draft | Decode):
                self._round(peer, message, arrived_us)
            elif isinstance(message, Close):
                self._registry.find(peer, message.session)
                self._registry.close(message.session)
            else:
                raise ServerRefused(f"the engine does not take {type(message).__name__} messages.")
        except ForedraftError as error:
            session = getattr(message, "session", b"")
            retry_after_ms = error.retry_after_ms if isinstance(error, Overloaded) else 0
            self._send(peer, Failure(error.code, str(error), error.retryable, session, retry_after_ms))
            self._observer.refused(error.code, session, identity(peer), audited=isinstance(error, SessionUnknown))

    def give_up(self, peer: Hashable, identifier: SessionId) -> None:
        """Stop working for a session whose answers its peer does not read; it is there still when the device asks again."""
        self._registry.give_up(peer, identifier)

    def forget_device(self, identity: str) -> None:
        """Close every session of a device that is no longer let in."""
        self._registry.close_all(lambda session: session.owner == identity, "revoked")

    def _open(self, peer: Hashable, message: Open | Resume, arrived_us: int) -> None:
        held = self._registry.find(peer, message.session)
        if held is not None and message.epoch <= held.ledger.epoch:
            held.peer = peer  # a repeat of what is already done
            return
        self._check(message)
        if held is None:
            session = self._registry.open(message, peer, arrived_us)
            self._observer.opened(session, "open" if isinstance(message, Open) else "prefill")
            return
        session = self._registry.resume(held, message, peer, arrived_us)
        self._observer.opened(session, "cache" if held.slot.length else "prefill")

    def _check(self, message: Open | Resume) -> None:
        tokens = message.prompt if isinstance(message, Open) else message.tokens
        if any(token >= self._target.vocabulary for token in tokens):
            raise UsageError(
                f"a prompt token is outside the target's vocabulary of {self._target.vocabulary}; "
                "encode the prompt with the target's tokenizer."
            )
        prompt_length = len(tokens) if isinstance(message, Open) else message.prompt_length
        if len(tokens) > prompt_length + message.max_tokens:
            raise UsageError(
                f"the resumed text has {len(tokens)} tokens, more than its prompt of {prompt_length} and max_tokens "
                f"{message.max_tokens}; resume a session with the limits it was opened with."
            )
        if prompt_length + message.max_tokens > self._target.context:
            raise PromptTooLong(
                f"the prompt has {prompt_length} tokens and {message.max_tokens} more were asked for, but the model's "
                f"context is {self._target.context}; shorten the prompt or lower max_tokens."
            )

    def _round(self, peer: Hashable, message: Draft | Decode, arrived_us: int) -> None:
        session = self._registry.find(peer, message.session)
        if session is None or message.epoch > session.ledger.epoch:  # in the latter case a Resume was lost
            self._send(peer, NeedResume(message.session, message.epoch))
            return
        if isinstance(message, Draft):
            if len(message.tokens) > self._options.max_draft:
                raise UsageError(
                    f"a draft of {len(message.tokens)} tokens; the server takes {self._options.max_draft}."
                )
            if any(token >= self._target.vocabulary for token in message.tokens):
                raise UsageError(f"a drafted token is outside the target's vocabulary of {self._target.vocabulary}.")
        self._registry.hear(session, peer, arrived_us)
        self._observer.heard(session, message)
        for answer in session.receive(message, arrived_us):
            self._send(peer, answer)

    # --- one pass

    def step(self) -> bool:
        """Do one pass; ``False`` if nobody waits for one."""
        seen = PassSeen(self._clock_ns())
        self._registry.sweep(seen.begun_ns / 1000)
        self.statistics.parked = sum(session.parked for session in self._registry)
        batch = self._schedule(seen)
        if not batch:
            return False
        self._run(batch, seen)
        seen.shares = batch
        seen.ended_ns = self._clock_ns()
        self.statistics.passes += 1
        self.statistics.model_us += seen.model_ns // 1000
        self.statistics.outside_us += (seen.ended_ns - seen.begun_ns - seen.model_ns) // 1000
        self.statistics.cache_used_bytes = self._target.pages.use.used_bytes
        self._observer.passed(seen)
        return True

    def _schedule(self, seen: PassSeen) -> list[_Scheduled]:
        """Rounds and pieces of unread prompts, those who waited longest first, as far as the rows reach."""
        waiting: list[tuple[Session, bool]] = []
        for session in sorted(self._registry, key=lambda session: session.served):
            if not session.wanted:
                continue
            if session.unread > 1:
                self._registry.adopt(session)
            verifies = session.round is not None and session.unread <= self._options.prefill_rows
            if verifies or session.unread > 1:
                waiting.append((session, verifies))
        batch: list[_Scheduled] = []
        chosen: set[Session] = set()
        being_read: set[bytes | None] = set()
        rows = self._options.max_rows
        prompt_rows = self._options.prefill_rows if any(verifies for _, verifies in waiting) else rows
        for session, verifies in waiting:  # the first of them always gets rows, so nobody starves
            page = self._target.pages.next_page(session.slot, session.ledger.tokens)
            if page is not None and page in being_read:
                continue  # somebody reads the same in this pass: the next one finds it in the cache
            run = session.round_run() if verifies else session.prompt_run(min(rows, prompt_rows))
            if not 0 < len(run.tokens) <= rows:
                continue
            if not self._registry.make_room(session, session.slot.length + len(run.tokens), chosen):
                continue
            rows -= len(run.tokens)
            prompt_rows -= 0 if verifies else len(run.tokens)
            batch.append(_Scheduled(session, run, verifies))
            chosen.add(session)
            being_read.add(page)
            self.statistics.rebuilds += session.evicted
            session.evicted = False
        seen.waiting = len(waiting) - len(batch)
        seen.rows = sum(len(entry.run.tokens) for entry in batch)
        return batch

    def _run(self, batch: list[_Scheduled], seen: PassSeen) -> None:
        """Run the target exit by exit, and judge."""
        asked = [
            entry.verifies and entry.session.hints and bool(entry.session.round and entry.session.round.draft)
            for entry in batch
        ]
        begun = self._clock_ns()
        target_pass = self._target.verify([entry.run for entry in batch], exits=any(asked))
        while True:
            view = target_pass.step(asked)
            now = self._clock_ns()
            seen.model_ns += now - begun
            seen.steps.append((view.layer, begun, now))
            if view.final:
                break
            for entry, logits in zip(batch, view.logits, strict=True):
                if logits is not None:
                    self._hint(entry, view.layer, logits)
            begun = self._clock_ns()
        computed_us = seen.model_ns // 1000
        self.statistics.rows += seen.rows
        for entry, logits in zip(batch, view.logits, strict=True):
            session = entry.session
            session.served = self.statistics.passes + 1
            if not entry.verifies:
                self.statistics.prompt_rows += len(entry.run.tokens)
                continue
            assert logits is not None
            self._commit(entry, logits, computed_us)

    def _hint(self, entry: _Scheduled, layer: int, logits: Logits) -> None:
        """Say what this exit expects the verdict to be, if it is sure enough and has not said so before."""
        session = entry.session
        assert session.round is not None
        known = session.ledger.length
        drafted = entry.run.tokens[len(entry.run.tokens) - entry.run.scored + 1 :]
        sure = 1.0

        def picked(row: int, position: int) -> int:
            nonlocal sure
            offered = drafted[row] if row < len(drafted) else None
            token, confidence = logits.foresee(row, offered, session.sampling, position, session.trust)
            sure *= confidence
            return token

        expected = session.hint(picked)
        outcome = (expected.accepted, expected.token)
        if sure < self._options.hint_confidence or outcome in session.round.hinted or expected.base > known:
            return
        session.round.hinted.add(outcome)
        hint = Hint(
            session.ledger.session, session.ledger.epoch, expected.round, layer, expected.accepted, expected.token, sure
        )
        entry.hints.append(hint)
        self.statistics.hints += 1
        self._send(session.peer, hint)

    def _commit(self, entry: _Scheduled, logits: Logits, computed_us: int) -> None:
        session = entry.session

        def pick(row: int, position: Position) -> TokenId:
            return logits.pick(row, session.sampling, position)

        before = session.ledger.length
        round_ = session.round
        assert round_ is not None
        first: Verdict | None = None
        for answer in session.commit(pick, self._clock_ns() // 1000, computed_us):
            if first is None and isinstance(answer, Verdict):
                first = answer
            self._send(session.peer, answer)
        # The cache holds the fed tokens; keep those that were committed. The last committed one is never in it.
        self._target.keep(session.slot, min(session.slot.length, session.ledger.length - 1))
        assert first is not None
        self.statistics.rounds += 1
        self.statistics.drafted += len(round_.draft)
        self.statistics.accepted += first.accepted
        entry.round, entry.verdict, entry.committed = round_, first, session.ledger.length - before
        self.statistics.committed += entry.committed
        self.statistics.hints_confirmed += sum(
            (hint.accepted, hint.token) == (first.accepted, first.token) for hint in entry.hints
        )
