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
from functools import partial
from typing import Any

from foredraft_shared.errors import (
    ForedraftError,
    Overloaded,
    ServerRefused,
    SessionUnknown,
    TakenOver,
)
from foredraft_shared.messages import (
    Close,
    CloudMessage,
    Decode,
    Draft,
    EdgeMessage,
    Failure,
    NeedResume,
    Open,
    Position,
    Resume,
    SessionId,
    TokenId,
    Verdict,
)

from .admission import check_draft, check_opening
from .cost import PassCost
from .observer import Observer, PassSeen, Unobserved
from .options import EngineOptions, EngineStatistics
from .part import Part
from .registry import Registry, identity
from .scheduler import Expected, Scheduler, Waiting
from .sessions import Session
from .target import ExitView, Logits, Target

__all__ = ["Engine", "EngineOptions", "EngineStatistics"]

Send = Callable[[Any, CloudMessage], object]

_TELL_EVERY = 16
"""Passes between two that renew what devices are told of their time."""


class Engine:
    """Sessions and a target.

    Args:
        send: called with ``(peer, message)`` on the model thread for every answer, hints in the middle of a pass
            included; must not block.
        clock_ns: a monotonic clock.
        observer: told of what happens.
        overhear: called at the exits of a pass that sessions share, or that is asked for hints there: may call :meth:`receive`
            for what has come meanwhile. It is taken in when the pass is over, but for sessions that are closed or resumed nothing
            more is computed.
    """

    def __init__(
        self,
        target: Target,
        send: Send,
        options: EngineOptions | None = None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        observer: Observer | None = None,
        overhear: Callable[[], object] | None = None,
    ) -> None:
        self._target = target
        self._send = send
        self._options = options or EngineOptions()
        self._clock_ns = clock_ns
        self._observer = observer or Unobserved()
        self.statistics = EngineStatistics(cache_limit_bytes=target.pages.use.limit_bytes)
        self._registry = Registry(target, self._options, self.statistics, self._observer)
        self._cost = PassCost()
        self.pass_line = (0.0, 0.0)
        """Microseconds of a pass over one token, and for each further one; 0 while that is not known. From any thread."""
        self._scheduler: Scheduler[Session] = Scheduler(
            self._options.max_rows, self._options.prefill_rows, self._options.gather_us, self._cost
        )
        self._overhear = overhear
        self._batch: list[Part] = []
        """Of the pass that is under way."""
        self._later: list[Callable[[], object]] = []
        """What was said during the pass."""
        self.pause_s = 0.0
        """After a step that did nothing: within that time there will be something to do even if nobody says anything."""

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
        if arrived_ns is None:
            arrived_ns = self._clock_ns()
        if self._batch:
            self._later.append(partial(self.receive, peer, message, arrived_ns))
            self._cancel(peer, message)
            return
        arrived_us = arrived_ns // 1000
        try:
            if isinstance(message, Open | Resume):
                self._open(peer, message, arrived_us)
            elif isinstance(message, Draft | Decode):
                self._round(peer, message, arrived_us)
            elif isinstance(message, Close):
                held = self._registry.find(peer, message.session)
                if held is not None and not held.past(peer, message.epoch):
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
        if self._batch:
            self._later.append(partial(self.give_up, peer, identifier))
        else:
            self._registry.give_up(peer, identifier)

    def forget_device(self, identity: str) -> None:
        """Close every session of a device that is no longer let in."""
        if self._batch:
            self._later.append(partial(self.forget_device, identity))
        else:
            self._registry.forget_device(identity)

    def _cancel(self, peer: Hashable, message: EdgeMessage) -> None:
        """Compute nothing more for a session that its own device closes, or takes up anew."""
        if not isinstance(message, Close | Resume):
            return
        for entry in self._batch:
            ledger = entry.session.ledger
            if ledger.session != message.session or entry.session.owner != identity(peer):
                continue
            close = isinstance(message, Close) and not entry.session.past(peer, message.epoch)
            if close or message.epoch > ledger.epoch:
                entry.cancelled = True

    def _open(self, peer: Hashable, message: Open | Resume, arrived_us: int) -> None:
        held = self._registry.find(peer, message.session)
        if held is not None and message.epoch <= held.ledger.epoch:
            if held.past(peer, message.epoch):
                self._put_off(peer, held, message)
            return  # else it is a repeat of what is already done
        check_opening(message, self._target.vocabulary, self._target.context, self._options.lossy_exit)
        self._bound(len(message.prompt if isinstance(message, Open) else message.tokens))
        if held is None:
            session = self._registry.open(message, peer, arrived_us)
            self._observer.opened(session, "open" if isinstance(message, Open) else "prefill")
            return
        session = self._registry.resume(held, message, peer, arrived_us)
        self._observer.opened(session, "cache" if held.slot.length else "prefill")

    def _put_off(self, peer: Hashable, held: Session, message: Open | Resume | Draft | Decode) -> None:
        """Something of an epoch that is over, or that another process of the same device has for itself.

        An epoch belongs to the one connection it was begun on: were there two, each would take the other's verdicts for its
        own. So whoever comes second takes the text over, in an epoch of its own, and whoever comes late is told. On the
        connection itself a late message may have been overtaken, or may be another device's, by the same routing id on the
        same channel: its own device has gone on and does not mind the answer, the other one has waited for it.

        Raises:
            TakenOver: another process has begun a later epoch.
        """
        if message.epoch < held.ledger.epoch and peer != held.peer:
            raise TakenOver(
                "another process has gone on with this text since; let it finish, or take the text up again from its file."
            )
        self._send(peer, NeedResume(message.session, message.epoch))

    def _bound(self, rows: int) -> None:
        """Refuse what would wait for too long behind all that waits.

        Raises:
            Overloaded: too much waits already.
        """
        waiting = sum(session.waiting_rows for session in self._registry if session.wanted)
        if waiting and waiting + rows > self._options.max_waiting_rows:
            passes = waiting / self._options.max_rows
            retry_ms = passes * (self._cost.estimate(self._options.max_rows) or 100_000.0) / 2000
            raise Overloaded(
                f"{waiting} tokens wait to be read already; try again in a while, or use another server.",
                retry_after_ms=max(1, round(retry_ms)),
            )

    def _round(self, peer: Hashable, message: Draft | Decode, arrived_us: int) -> None:
        session = self._registry.find(peer, message.session)
        if session is None or message.epoch > session.ledger.epoch:  # in the latter case a Resume was lost
            self._send(peer, NeedResume(message.session, message.epoch))
            return
        if session.past(peer, message.epoch):
            self._put_off(peer, session, message)
            return
        if isinstance(message, Draft):
            check_draft(message, self._target.vocabulary, self._options.max_draft)
        if not session.wanted or session.evicted:
            self._bound(session.unread)
        self._registry.hear(session, peer, arrived_us)
        self._observer.heard(session, message)
        for answer in session.receive(message, arrived_us):
            self._send(peer, answer)

    # --- one pass

    def step(self) -> bool:
        """Do one pass; ``False`` if nobody waits for one, or it is better to wait for more (see :attr:`pause_s`)."""
        seen = PassSeen(self._clock_ns())
        self._registry.sweep(seen.begun_ns / 1000)
        self.statistics.parked = sum(session.parked for session in self._registry)
        self._batch = self._schedule(seen)
        if not self._batch:
            return False
        try:
            self._run(seen)
        finally:
            batch, self._batch = self._batch, []
            later, self._later = self._later, []
        seen.shares = batch
        seen.ended_ns = self._clock_ns()
        self.statistics.passes += 1
        self.statistics.model_us += seen.model_ns // 1000
        self.statistics.outside_us += (seen.ended_ns - seen.begun_ns - seen.model_ns) // 1000
        self.statistics.cache_used_bytes = self._target.pages.use.used_bytes
        self._observer.passed(seen)
        for errand in later:
            errand()
        return True

    def _schedule(self, seen: PassSeen) -> list[Part]:
        """Choose who gets rows, and make room for what they will write."""
        now_us = seen.begun_ns / 1000
        waiting = [waits for session in self._registry if session.wanted and (waits := self._wish(session)) is not None]
        self.pause_s = self._scheduler.pause_us(waiting, self._expected(now_us), now_us) / 1e6
        if self.pause_s:
            self.statistics.gathered += 1
            return []
        batch: list[Part] = []
        chosen: set[Session] = set()
        being_read: set[bytes] = set()

        def take(one: Waiting[Session], rows: int) -> int:
            session = one.key
            # Others may have taken its room since it was asked what it wants.
            run = session.round_run() if one.verifies else session.prompt_run(rows)
            page = self._target.pages.next_page(session.slot, session.ledger.tokens)
            if not 0 < len(run.tokens) <= rows or page in being_read:  # the next pass finds that page in the cache
                return 0
            if not self._registry.make_room(session, session.slot.length + len(run.tokens), chosen):
                return 0
            if page is not None:
                being_read.add(page)
            chosen.add(session)
            batch.append(Part(session, run, one.verifies))
            self.statistics.rebuilds += session.evicted
            session.evicted = False
            session.round_rows = len(run.tokens)
            return len(run.tokens)

        seen.rows = self._scheduler.choose(waiting, now_us, take)
        seen.waiting = len(waiting) - len(batch)
        return batch

    def _wish(self, session: Session) -> Waiting[Session] | None:
        """What a session would like to have in the next pass."""
        if session.unread > 1:
            self._registry.adopt(session)
        round_ = session.round
        if round_ is not None and session.unread <= self._options.prefill_rows:
            rows = session.waiting_rows
            return Waiting(session, session.device, rows, True, round_.arrived_us, round_.due_us, session.served)
        if session.unread > 1:
            rows = session.unread - 1
            return Waiting(session, session.device, rows, False, session.heard_us, None, session.served)
        return None

    def _expected(self, now_us: float) -> list[Expected]:
        """Rounds that will probably come soon, from devices that answer their verdicts regularly."""
        result: list[Expected] = []
        for session in self._registry:
            gap_us = None if session.round is not None or session.parked else session.rhythm.gap_us
            if gap_us is not None and session.answered_us + gap_us >= now_us:
                result.append(Expected(session.answered_us + gap_us, session.round_rows))
        return result

    def _run(self, seen: PassSeen) -> None:
        """Run the target exit by exit, and judge."""
        batch = self._batch
        guesses = [entry.verifies and bool(entry.session.round and entry.session.round.draft) for entry in batch]
        dropping = self._options.drop_confidence is not None
        asked = [
            guess and (dropping or (entry.session.hints and entry.doubtful))
            for guess, entry in zip(guesses, batch, strict=True)
        ]
        begun = self._clock_ns()
        # To stop costs a few per cent of a small pass; a session that has gone frees little of one that it is alone in.
        stops = any(asked) or (self._overhear is not None and len(batch) > 1)
        target_pass = self._target.verify([entry.run for entry in batch], exits=stops)
        while True:
            view = target_pass.step(asked)
            now = self._clock_ns()
            seen.model_ns += now - begun
            seen.steps.append((view.layer, begun, now))
            if view.final:
                break
            self._look_around(batch, view)
            begun = self._clock_ns()
            if any(entry.kept < entry.taken for entry in batch):
                target_pass.narrow([entry.kept for entry in batch])
                for entry in batch:
                    self.statistics.rows_dropped += entry.taken - entry.kept
                    entry.taken = entry.kept
        computed_us = seen.model_ns // 1000
        if all(entry.kept == len(entry.run.tokens) for entry in batch):
            self._cost.observe(seen.rows, computed_us)
            if self.statistics.passes % _TELL_EVERY == _TELL_EVERY - 1:
                self.pass_line = self._cost.line() or self.pass_line
        self.statistics.rows += seen.rows
        for entry, logits in zip(batch, view.logits, strict=True):
            session = entry.session
            session.served = self.statistics.passes + 1
            if entry.cancelled:
                self.statistics.cancelled += 1
            elif not entry.verifies:
                self.statistics.prompt_rows += len(entry.run.tokens)
            else:
                assert logits is not None
                self._commit(entry, logits, computed_us)

    def _look_around(self, batch: list[Part], view: ExitView) -> None:
        """At an exit: send hints, find rows that cannot matter, and hear who has closed."""
        for entry, logits in zip(batch, view.logits, strict=True):
            if logits is None or entry.cancelled:
                continue
            hint = entry.hint(view.layer, logits, self._options.hint_confidence)
            if hint is not None:
                self.statistics.hints += 1
                self._send(entry.session.peer, hint)
            if self._options.drop_confidence is not None:
                entry.drop(logits, self._options.drop_confidence)
        if self._overhear is not None:
            self._overhear()
        for entry in batch:
            if entry.cancelled:
                entry.kept = 0

    def _commit(self, entry: Part, logits: Logits, computed_us: int) -> None:
        session = entry.session

        def pick(row: int, position: Position) -> TokenId:
            return logits.pick(row, session.sampling, position)

        before = session.ledger.length
        round_ = session.round
        assert round_ is not None
        first: Verdict | None = None
        for answer in session.commit(pick, len(logits), self._clock_ns() // 1000, computed_us):
            if first is None and isinstance(answer, Verdict):
                first = answer
            self._send(session.peer, answer)
        # The cache holds the fed tokens; keep those that were committed. The last committed one is never in it.
        self._target.keep(session.slot, min(session.slot.length, session.ledger.length - 1))
        entry.committed = session.ledger.length - before
        self.statistics.committed += entry.committed
        if first is None:
            self.statistics.dropped_wrongly += 1
            return
        session.answered_us = self._clock_ns() // 1000
        self.statistics.rounds += 1
        self.statistics.drafted += len(round_.draft)
        self.statistics.accepted += first.accepted
        entry.round, entry.verdict = round_, first
        self.statistics.hints_confirmed += sum(
            (hint.accepted, hint.token) == (first.accepted, first.token) for hint in entry.hints
        )
