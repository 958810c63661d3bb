"""What operators want to know, counted in plain numbers.

An :class:`Observer` that only adds: the model thread pays microseconds a pass, and whoever reads (:mod:`.metrics`) does so
from another thread whenever it likes. A number read in the middle of a pass may be a pass older than its neighbour; none is
ever torn.

Times are the server's own: a text's clock begins when its Open arrives and its last token counts when the verdict is handed
to the network. The way there and back is not in them; devices say what that takes (``link_round_trip``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from foredraft_shared.messages import Decode, Draft, SessionId

from .observer import Closing, Opening, PassSeen, Share, Unobserved
from .sessions import Session

__all__ = ["Histogram", "Tally"]

# The bounds of vLLM's histograms of the same names, so that heat maps and alerts made for them fit.
_FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)  # fmt: skip
_BETWEEN_TOKENS_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_TEXT_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0,
    7680.0,
)  # fmt: skip
_PASS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0)
_LINK_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256)


class Histogram:
    """Counts of values up to each of some bounds, and their sum.

    Args:
        bounds: ascending; a value equal to one counts for it.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        """Not cumulative; the last is of values beyond every bound."""
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count ``value``, so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


@dataclass(slots=True)
class _Text:
    """A session's text as it comes into being; instants in microseconds of the engine's clock."""

    began_us: int | None
    """``None``: it began on another server, or before this one forgot it."""
    committed_us: int | None = None
    """When its last tokens became final; ``None``: none have here."""
    finished: bool = False


class Tally(Unobserved):
    """See the module. Every field only grows, but for the gauges."""

    def __init__(self) -> None:
        self._texts: dict[SessionId, _Text] = {}
        # --- gauges
        self.sessions = 0
        """Open here."""
        self.unfinished = 0
        """Of those, texts that are not complete."""
        self.waiting = 0
        """Sessions that wanted rows in the latest pass and got none."""
        # --- texts
        self.first_token = Histogram(_FIRST_TOKEN_S)
        """From the arrival of Open to the first commit."""
        self.between_tokens = Histogram(_BETWEEN_TOKENS_S)
        """From each token to the next; those of one commit become final together, so all but its first count 0."""
        self.text = Histogram(_TEXT_S)
        """From the arrival of Open to the last token, of texts that came to their end."""
        self.finished: Counter[str] = Counter()
        """Texts by how they ended: ``stop``, ``length``, or ``abort``: closed before."""
        self.prompt_tokens = 0
        self.reread_tokens = 0
        """Of texts taken up again whose keys and values were not held any more."""
        self.opened_by: Counter[str] = Counter()
        self.closed_by: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        # --- rounds
        self.drafts = 0
        """Rounds with at least one drafted token."""
        self.drafted = 0
        self.accepted = 0
        self.tokens: Counter[str] = Counter()
        """Committed, by who vouches for them."""
        self.hints: Counter[int] = Counter()
        """Sent, by exit layer."""
        self.hints_confirmed: Counter[int] = Counter()
        self.chained = 0
        """Drafts that arrived before the verdict they build on had left; one that is repeated counts again."""
        self.chained_hits = 0
        """Of those, rounds that were verified: what they assumed came true."""
        self.round_queue = Histogram(_PASS_S)
        """A round's waiting for its pass."""
        self.link_round_trip = Histogram(_LINK_S)
        # --- passes
        self.pass_time = Histogram(_PASS_S)
        """All of a step: choosing, the target, judging and answering."""
        self.pass_rows = Histogram(_ROWS)
        self.pass_sessions = Histogram(_ROWS)
        self.model_s = 0.0
        self.outside_s = 0.0
        """The part of a step that is not the target's."""

    def opened(self, session: Session, how: Opening) -> None:
        """Count it, and start a text's clock."""
        self.opened_by[how] += 1
        known = self._texts.get(session.ledger.session)
        if known is None:
            self.sessions += 1
            began_us = session.heard_us if how == "open" else None
            known = self._texts[session.ledger.session] = _Text(began_us, finished=session.finished)
            self.unfinished += not known.finished
        if how == "open":
            self.prompt_tokens += session.ledger.length
        elif how == "prefill":
            self.reread_tokens += session.ledger.length

    def closed(self, session: Session, why: Closing) -> None:
        """Count it, and forget its text."""
        self.closed_by[why] += 1
        text = self._texts.pop(session.ledger.session, None)
        if text is not None:
            self.sessions -= 1
            self.unfinished -= not text.finished
            if why == "closed" and not text.finished:
                self.finished["abort"] += 1

    def heard(self, session: Session, message: Draft | Decode) -> None:
        """Count a chained round, and what the device says of its link."""
        if session.chains(message, session.heard_us):
            self.chained += 1
        if message.round_trip_us:
            self.link_round_trip.observe(message.round_trip_us / 1e6)

    def refused(self, code: str, session: SessionId, device: str, *, audited: bool = False) -> None:
        """Count it."""
        self.refusals[code] += 1

    def passed(self, seen: PassSeen) -> None:
        """Add up a pass."""
        spent_s = (seen.ended_ns - seen.begun_ns) / 1e9
        model_s = seen.model_ns / 1e9
        self.pass_time.observe(spent_s)
        self.model_s += model_s
        self.outside_s += spent_s - model_s
        self.pass_rows.observe(seen.rows)
        self.pass_sessions.observe(len(seen.shares))
        self.waiting = seen.waiting
        now_us = seen.ended_ns // 1000
        for share in seen.shares:
            if share.verifies:
                self._judged(share)
                self._wrote(share, now_us)

    def _judged(self, share: Share) -> None:
        round_, verdict = share.round, share.verdict
        if round_ is None or verdict is None:
            return
        self.round_queue.observe(verdict.timing.queued_us / 1e6)
        self.chained_hits += round_.chained
        for hint in share.hints:
            self.hints[hint.exit_layer] += 1
            if (hint.accepted, hint.token) == (verdict.accepted, verdict.token):
                self.hints_confirmed[hint.exit_layer] += 1
        request = round_.request
        if isinstance(request, Draft) and request.tokens:
            self.drafts += 1
            self.drafted += len(request.tokens)
            self.accepted += verdict.accepted

    def _wrote(self, share: Share, now_us: int) -> None:
        committed = share.committed
        if not committed:
            return
        request, verdict = share.round.request if share.round is not None else None, share.verdict
        forced = min(request.forced, committed) if isinstance(request, Draft) and request.forced else 0
        if forced:
            self.tokens["edge"] += forced
        self.tokens["exit" if share.session.lossy_exit else "target"] += committed - forced
        text = self._texts.get(share.session.ledger.session)
        if text is None:
            return
        if text.committed_us is not None:
            self.between_tokens.observe((now_us - text.committed_us) / 1e6)
        elif text.began_us is not None:
            self.first_token.observe((now_us - text.began_us) / 1e6)
        if committed > 1:
            self.between_tokens.observe(0.0, committed - 1)
        text.committed_us = now_us
        if verdict is not None and verdict.finish:
            text.finished = True
            self.unfinished -= 1
            self.finished[verdict.finish] += 1
            if text.began_us is not None:
                self.text.observe((now_us - text.began_us) / 1e6)
