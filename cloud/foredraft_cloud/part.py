"""One session's part in a pass, and what an exit makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from foredraft_shared.messages import Draft, Hint, Position, TokenId, Verdict

from .sessions import Round, Session
from .target import Logits, Run

__all__ = ["Part"]


@dataclass(slots=True)
class Part:
    """See :class:`foredraft_cloud.observer.Share`, which is what others see of it."""

    session: Session
    run: Run
    verifies: bool
    hints: list[Hint] = field(default_factory=list)
    round: Round | None = None
    """The round that was judged, and how, once the pass is over."""
    verdict: Verdict | None = None
    committed: int = 0
    taken: int = 0
    """Tokens of the run that the target is still busy with…"""
    kept: int = 0
    """…and those that matter yet."""
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.taken = self.kept = len(self.run.tokens)

    @property
    def doubtful(self) -> bool:
        """Whether the device is likelier wrong than right in what it drafts on already: that all stands, and its next guess.

        Where it is not, an exit costs more of the pass than its hints can save: at half the depth no more than half a pass,
        and only where they contradict the device and are right.
        """
        return self.session.trust.share**self.run.scored < 0.5

    def hint(self, layer: int, logits: Logits, sure_enough: float) -> Hint | None:
        """What this exit expects the verdict to be, if it is sure enough and has not said so before."""
        session, round_ = self.session, self.session.round
        assert round_ is not None
        if not session.hints:
            return None
        sure = 1.0

        def picked(row: int, position: int) -> int:
            nonlocal sure
            token, confidence = self._foresee(logits, row, position)
            sure *= confidence
            return token

        known = session.ledger.length
        expected = session.hint(picked, len(logits))
        if expected is None or sure < sure_enough or expected.base > known:
            return None
        outcome = (expected.accepted, expected.token)
        if outcome in round_.hinted:
            return None
        round_.hinted.add(outcome)
        ledger = session.ledger
        hint = Hint(ledger.session, ledger.epoch, expected.round, layer, expected.accepted, expected.token, sure)
        self.hints.append(hint)
        return hint

    @property
    def _drafted(self) -> tuple[TokenId, ...]:
        """The drafted tokens that are fed: what row r of the scored ones foresees is the r-th of them."""
        return self.run.tokens[len(self.run.tokens) - self.run.scored + 1 :]

    def _foresee(self, logits: Logits, row: int, position: Position) -> tuple[TokenId, float]:
        offered = self._drafted[row] if row < len(self._drafted) else None
        return logits.foresee(row, offered, self.session.sampling, position, self.session.trust.share)

    def drop(self, logits: Logits, sure: float) -> None:
        """Let nothing matter behind the first drafted token in whose place this exit is so sure of another.

        It cannot be accepted then, and full depth says in that token's own row what stands in its place. Should full depth
        accept the token after all, the rest of the draft is verified in the next pass.
        """
        round_ = self.session.round
        assert round_ is not None
        if not isinstance(round_.request, Draft) or round_.request.forced:
            return
        tokens, scored = self.run.tokens, self.run.scored
        for row, drafted in enumerate(self._drafted[: len(logits)]):
            token, confidence = self._foresee(logits, row, self.session.ledger.length + row)
            if token != drafted and confidence >= sure:
                self.kept = min(self.kept, len(tokens) - scored + row + 1)
                return
