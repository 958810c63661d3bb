"""How much to draft, and whether to draft at all, from measured numbers only.

The theory. Let a drafted token be right with probability ``a`` if those before it are. A draft of ``k`` tokens commits
``E(k) = 1 + a + … + a^k`` on average, the target's own token included. It takes the device ``k · draft``, the link ``rtt``
and the server ``verify + k · row``. Meanwhile the device drafts on: a guess at the target's own token, and the next ``k``.
With probability ``h = a^(k+1)`` all of it was right, and the next round is already on its way; otherwise drafting begins
anew, once the token that the device is just at is done, which takes half a token's time on average. So a token costs ::

    ms(k) = ((1 - h) · (k · draft + rtt + verify + k · row + draft / 2) + h · interval) / E(k)
    interval = max(verify + k · row,  (k + 1) · draft,  (rtt + verify + k · row) / window)

where ``interval`` is what a round adds while all goes well: server, device, or the number of rounds that may be in flight
(``window``) is the bottleneck. With a window of 0, a device that waits for each verdict, ``h`` and the half token are 0.
The cloud alone takes ``decode`` for a token: it streams, and pays the round trip once for the whole text.

*Length.* The best ``k`` minimises ``ms(k)``; at that length the draft has survived with probability ``a^k``. A draft whose
own probabilities say which tokens are doubtful should be longer in easy places and shorter in hard ones, so what is fixed
is not ``k`` but that survival: draft on until another token would bring it below. The draft's probabilities are corrected
by how often tokens of that probability were in fact accepted.

*Mode.* What speculation and the cloud's own stream cost is foretold, not tried. The greeting tells the round trip and
what a pass takes; the acceptance is learnt from verdicts, and, while the cloud writes, by letting the draft read what
was written and say what it would have proposed (:mod:`.shadow`), which costs the link nothing, and the text only where
both share a machine: what it costs there is measured and paid out of a fiftieth of the time. ``ms(k)`` is corrected by
what rounds in fact took against what such rounds, of that length and behind a rejection or none, should have taken: a
dozen rounds tell. And by what texts took against all that, slowly, since rounds of one text are lucky or unlucky
together. At the beginning of a text the mode that is believed to be faster is taken. Within a text, leaving
speculation and ending a stream both cost a round trip, so only what is left of the text counts: speculation is dropped
when it has in fact lost time against the cloud alone and even hope (the highest acceptance that what was seen does not
speak against) says that it will lose more than a round trip until the text ends; or when it has lost so much that the
formula must be wrong: on the way there hope shrinks to what is believed. The loss is a sum that never falls below 0
(Page's CUSUM test, Biometrika 41, 1954), so that old gains do not hide a link that has become slow. A stream runs to
the end of the text, unless that is so far that its end is a small share.

*Trials.* Where the cloud is believed to be the faster, and hope says otherwise, speculation is tried: when the time
written since would pay for a failure with one part in a hundred, and where enough is left of the text to win it
back. The figures behind the constants: docs/planning.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .looking import Looking
from .measuring import Estimate, Measurements, Measuring

__all__ = ["AdaptivePlanner", "Estimate", "FixedPlanner", "Measurements", "Mode", "Plan", "Planner"]

Mode = str
"""``"speculate"``, ``"cloud"`` or ``"edge"``."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A decision of the planner."""

    mode: Mode
    reason: str
    tokens: int | None = None
    """For how many tokens, in cloud mode; ``None`` for all that are left."""


class Planner(Protocol):
    """Decides length and mode; told about everything that happens."""

    measured: Measurements

    @property
    def curious(self) -> bool:
        """Whether, while the cloud writes, the draft looks whether it would have been right."""

    def disturbed(self) -> None:
        """The device computed while the cloud wrote: on one machine that makes the cloud's next token later."""

    def began(self) -> None:
        """Another text begins, or one is taken up again."""

    def plan(self, written: int, left: int) -> Plan:
        """What to do next, when ``written`` tokens follow the prompt, ``left`` more may, and nothing is in flight."""

    def enough(self, probabilities: Sequence[float], *, idle: bool) -> bool:
        """Whether a draft with these probabilities is long enough; ``idle`` if the server waits for it."""

    def survival(self, probabilities: Sequence[float]) -> float:
        """Probability that all tokens drafted with these probabilities are accepted."""

    def drafted(self, elapsed_ms: float) -> None:
        """A token was drafted."""

    def judged(self, probabilities: Sequence[float], accepted: int, rejected: bool) -> None:
        """Of a draft, ``accepted`` tokens were accepted; ``rejected`` if the next one was not."""

    def answered(self, *, rtt_ms: float | None, computed_ms: float, drafted: int) -> None:
        """A verdict came; ``rtt_ms`` if it was waited for from its sending on."""

    def progressed(self, tokens: int, elapsed_ms: float, mode: Mode) -> None:
        """``tokens`` were committed ``elapsed_ms`` after the ones before."""


class FixedPlanner(Measuring):
    """Always the same mode and draft length; for baselines, tests and users who know better."""

    def __init__(self, length: int, mode: Mode = "speculate") -> None:
        super().__init__()
        self._length = length
        self._mode = mode

    curious = False

    def began(self) -> None:
        pass

    def disturbed(self) -> None:
        pass

    def plan(self, written: int, left: int) -> Plan:
        return Plan(self._mode, "fixed by the caller")

    def enough(self, probabilities: Sequence[float], *, idle: bool) -> bool:
        return len(probabilities) >= self._length


class AdaptivePlanner(Measuring):
    """The theory above. May serve one text after another, and remembers.

    Args:
        longest: upper bound of a draft.
        switch: may leave speculation for the cloud alone and come back; otherwise only the length adapts.
        warm_up: tokens that the cloud streams alone where it has to be measured.
        window: rounds that the loop may have in flight; 0 if it waits for each verdict before it drafts on.
    """

    _SHARE = 0.01
    """Of the time passed, what trials may lose, and the end of a long stream."""
    _GRACE = 5.0
    """Rounds' worth of loss that end speculation whatever the formula says."""
    _CAUTION = 1.0
    """Rounds' worth of loss before the formula is heard: the first round of a text may be an unlucky one."""
    _STALL = 2.0
    """Rounds' worth of time that a commit counts for at most, if the one before it took less: a machine or link that stands
    still for a moment says nothing about the mode, and would have stopped the cloud's stream, too."""
    _FASTER = 0.9
    """Of the cloud's own tokens as measured: what a pass over a draft must take less than to be believed instead."""
    _PRIOR_WEIGHT = 3.0
    """Drafted tokens that the belief in :data:`_PRIOR` is worth."""
    _PRIOR = 0.75
    _PRIOR_DRAFT = 0.25
    """Of a pass: what drafting a token takes, before one was drafted."""
    _HIGHEST = 0.99
    """To hope for."""
    _DEVIATIONS = 1.5
    """Of the belief in the acceptance, to hope for…"""
    _DOUBTS = 2.0
    """…and to look for: looking costs little."""
    _SOME = 6
    """Samples before which nothing is concluded from them."""
    _OLD = 12
    """Samples that an acceptance is worth that was not looked at for so long as :data:`_AGE` tokens."""
    _AGE = 1024
    _TRUST = 100.0
    """Rounds that the formula is worth against rounds as they were: those of one text are lucky or unlucky together."""
    _USUALLY = 0.97
    """Of what the formula says: simulated texts took that, and most of them within 5 % of it."""
    _SURE = 12.0
    """The same for what a round takes, which luck hardly changes."""
    _LATELY = 48.0
    """Rounds after which what a round took is forgotten."""
    _LASTING = 128.0
    """Rounds after which a round's time is forgotten."""
    _SHORT_WAY_MS = 40.0
    """Over a round trip of at most this, speculation is begun before anything is known."""
    _LEARN = 16
    """Tokens of the cloud's own within which a draft shows what it is worth."""
    _WORTH = 8.0
    """Round trips that speculation must be hoped to save, for the cloud's first stream to be ended so soon."""
    _CLEARLY = 0.6
    """Of a pass: a token that takes less than this is not held against the cloud's own, which then need not be measured."""

    def __init__(self, *, longest: int = 16, switch: bool = True, warm_up: int = 3, window: int = 3) -> None:
        super().__init__()
        self._longest = longest
        self._switch = switch
        self._warm_up = warm_up
        self._window = window
        self._lost_ms = 0.0
        self._stalled = False
        self._spare_ms = 0.0
        """What trials may lose."""
        self._rounds_took_ms = 0.0
        self._rounds_foretold_ms = 0.0
        """Rounds as they were, and by the formula for a round of that length behind one that went so."""
        self._length = 0
        """Tokens drafted in the last round judged."""
        self._anew = True
        """Whether the round before it was rejected somewhere."""
        self._took_ms = 0.0
        self._foretold_ms = 0.0
        """Rounds as they were, and by the formula."""
        self._unlooked = 0
        """Tokens of the cloud's since the draft was last compared with any."""
        self._looking = Looking()
        self._may_pay: bool | None = None
        """Whether the highest acceptance that may be would make speculation the faster."""
        self._mode: Mode = ""
        self._contradicted = 0
        """Trials' worth of time that the formula is not heard for when rounds speak against it again."""
        self._why = ""
        """What ended speculation in this text."""
        self._best: int | None = None

    # --- the formula

    @property
    def acceptance(self) -> float:
        """What is believed of the next drafted token: a few samples do not make it 0 or 1."""
        measured = self.measured.acceptance
        return (measured.value * self._evidence + self._PRIOR * self._PRIOR_WEIGHT) / (
            self._evidence + self._PRIOR_WEIGHT
        )

    @property
    def hope(self) -> float:
        """The highest acceptance that what was seen does not speak against: the belief and some standard deviations."""
        return min(self._HIGHEST, self.acceptance + self._DEVIATIONS * self._patience * self._deviation)

    @property
    def _deviation(self) -> float:
        """Of the belief in the acceptance."""
        believed = self.acceptance
        return math.sqrt(believed * (1.0 - believed) / (self._evidence + self._PRIOR_WEIGHT))

    @property
    def _patience(self) -> float:
        """1 as long as nothing was lost, 0 when that is a few rounds: what was lost in fact speaks against hope."""
        return max(0.0, 1.0 - self._lost_ms / (self._GRACE * self._round_ms())) if self._lost_ms else 1.0

    @property
    def _evidence(self) -> float:
        """Samples of acceptance that still count."""
        return min(self.measured.acceptance.samples, self.measured.acceptance.memory)

    def token_ms(self, length: int, acceptance: float) -> float:
        """``ms(k)`` of the theory, at present."""
        committed = sum(acceptance**index for index in range(length + 1))
        hit = acceptance ** (length + 1) if self._window else 0.0
        anew_ms, interval_ms = self._durations_ms(length)
        return ((1.0 - hit) * anew_ms + hit * interval_ms) / committed

    def _durations_ms(self, length: int) -> tuple[float, float]:
        """What a round takes that is drafted anew, and what one adds while all goes well."""
        draft, server = self._draft_ms(), self._server_ms(length)
        flight = self.measured.rtt_ms.value + server
        anew_ms = (length + (0.5 if self._window else 0.0)) * draft + flight
        return anew_ms, max(server, (length + 1) * draft, flight / self._window) if self._window else anew_ms

    def best(self) -> int:
        """The draft length that costs least."""
        if self._best is None:
            self._best, _ = self._least(self.acceptance)
        return self._best

    def expected_ms(self) -> float:
        """What a token is believed to cost with drafts: by the formula, and by what it has been wrong lately."""
        return self.token_ms(self.best(), self.acceptance) * self._wrong()

    def promise_ms(self) -> float:
        """What a token may be hoped to cost with drafts."""
        return self._least(self.hope)[1] * min(1.0, self._wrong())

    def _least(self, acceptance: float) -> tuple[int, float]:
        costs = [self.token_ms(length, acceptance) for length in range(1, self._longest + 1)]
        least = min(costs)
        return costs.index(least) + 1, least

    def _wrong(self) -> float:
        """Texts as they were over texts by the formula, which is worth some itself."""
        trust_ms = self._TRUST * self._round_ms()
        return self._slow() * (self._USUALLY * trust_ms + self._took_ms) / (trust_ms + self._foretold_ms)

    def _slow(self) -> float:
        """Rounds as they were over what such rounds should have taken, lucky or not."""
        trust_ms = self._SURE * self._round_ms()
        return (trust_ms + self._rounds_took_ms) / (trust_ms + self._rounds_foretold_ms)

    def _draft_ms(self) -> float:
        draft = self.measured.draft_ms
        known = draft.samples or not (self.measured.verify_ms.samples or self.measured.decode_ms.samples)
        return draft.value if known else self._PRIOR_DRAFT * self._alone_ms()

    def _server_ms(self, length: int) -> float:
        """A pass over a draft of so many tokens."""
        verify, decode = self.measured.verify_ms, self.measured.decode_ms
        if not verify.samples and decode.samples:
            return decode.value + self.measured.row_ms * length
        return verify.value + self.measured.row_ms * (length - self._drafted.value)

    def _alone_ms(self) -> float:
        """A token of the cloud alone: at most a pass over a draft, whatever a few tokens at the start of a text took."""
        decode, verify = self.measured.decode_ms, self.measured.verify_ms
        if not decode.samples:
            return verify.value
        sure = verify.samples >= self._SOME and verify.value < self._FASTER * decode.value
        return verify.value if sure else decode.value + self._looking.between_ms

    def _round_ms(self) -> float:
        """A round that comes to nothing; never 0."""
        length = self.best()
        return max(0.001, self.measured.rtt_ms.value + self._server_ms(length) + length * self._draft_ms())

    def _trial_ms(self) -> float:
        """What a trial may cost: a round, and the way back to the cloud's stream."""
        return self._round_ms() + self.measured.rtt_ms.value

    # --- decisions

    def began(self) -> None:
        if self._mode == "speculate":
            self._contradicted = 0
        self._mode = self._why = ""
        self._lost_ms = 0.0
        self._looking.begin(known=self._known)

    def plan(self, written: int, left: int) -> Plan:
        if not self._switch:
            return Plan("speculate", "the caller asked for speculation")
        plan = self._choose(left)
        if plan.mode != self._mode:
            self._anew = True  # the first round of a kind follows none
        self._mode = plan.mode
        return plan

    def _choose(self, left: int) -> Plan:
        measured = self.measured
        rtt_ms = measured.rtt_ms.value
        if not measured.verify_ms.samples and not measured.decode_ms.samples:
            if measured.rtt_ms.samples and rtt_ms <= self._SHORT_WAY_MS:
                return Plan("speculate", f"nothing is known yet, but the round trip: {rtt_ms:.0f} ms")
            tokens = self._stretch(left)
            return Plan("cloud", f"the round trip is {rtt_ms:.0f} ms, and nothing else is known yet", tokens)
        if self._to_be_measured(left):
            return Plan("cloud", f"{self._warm_up} tokens measure the cloud alone", self._warm_up)
        alone_ms, expected_ms = self._alone_ms(), self.expected_ms()
        told = f"drafts of {self.best()} take about {expected_ms:.1f} ms a token, the cloud alone {alone_ms:.1f}"
        saved_ms = (alone_ms - expected_ms) * left
        if self._mode == "speculate":
            round_ms = self._round_ms()
            doubted = self._lost_ms > self._CAUTION * round_ms and (self.promise_ms() - alone_ms) * left > rtt_ms
            if not doubted and self._lost_ms <= self._GRACE * round_ms:
                return Plan("speculate", told)
            self._why = f"; {self._lost_ms:.0f} ms were lost with drafts"
            self._lost_ms = 0.0
            # The formula says otherwise: once is bad luck, then it is not heard for longer each time.
            if saved_ms > 0.0:
                self._spare_ms = min(self._spare_ms, 0.0) - self._contradicted * self._trial_ms()
                self._contradicted = 2 * self._contradicted + 1
        elif saved_ms > 0.0 and self._spare_ms >= 0.0:
            return Plan("speculate", told)
        elif self._worth_trying(alone_ms, left):
            self._spare_ms -= self._trial_ms()
            self._lost_ms = 0.0
            return Plan("speculate", f"{told}; tried again")
        return Plan("cloud", told + self._why, self._stretch(left))

    def _to_be_measured(self, left: int) -> bool:
        """Whether to let the cloud write a few tokens alone, to know what speculation has to beat."""
        measured = self.measured
        if measured.decode_ms.samples or not self._warm_up or self._evidence < self._SOME:
            return False
        expected_ms = self.token_ms(self.best(), self.acceptance)
        return expected_ms > self._CLEARLY * measured.verify_ms.value

    def _worth_trying(self, alone_ms: float, left: int) -> bool:
        """Whether speculation may well be faster, and a trial that fails is paid for by what was not lost before."""
        hoped_ms = (alone_ms - self.promise_ms()) * left
        return self._spare_ms > self._trial_ms() and hoped_ms > self._trial_ms()

    def _stretch(self, left: int) -> int | None:
        """For how many tokens the cloud is to write: the end of a stream costs a round trip."""
        rtt_ms, alone_ms = self.measured.rtt_ms.value, max(self._alone_ms(), 0.001)
        learning = self._evidence < self._LEARN / 2
        hoped_ms = (alone_ms - self.promise_ms()) * (left - self._LEARN)
        if learning and hoped_ms > self._WORTH * rtt_ms:
            return self._LEARN + round(rtt_ms / alone_ms)  # nothing is looked at while a pong is awaited
        tokens = max(64, round(rtt_ms / (self._SHARE * alone_ms)))
        return None if left < 2 * tokens else tokens

    def enough(self, probabilities: Sequence[float], *, idle: bool) -> bool:
        if not probabilities:
            return False
        if len(probabilities) >= self._longest:
            return True
        acceptance = self.acceptance
        lowest: float = acceptance ** (self.best() + 0.5)
        return self.survival(probabilities) * acceptance < lowest

    @property
    def curious(self) -> bool:
        if not self._looking.allowed or not self.measured.decode_ms.samples:
            return self._looking.allowed
        if self._may_pay is None:
            # A few tokens speak against nothing.
            highest = self.acceptance + self._DOUBTS * self._deviation if self._known else self._HIGHEST
            self._may_pay = self._least(min(self._HIGHEST, highest))[1] < self._alone_ms()
        return self._may_pay

    @property
    def _known(self) -> bool:
        """Whether enough has been compared to be sure of anything."""
        return self._evidence >= Looking.FREE

    # --- what happened

    def learnt(self) -> dict[str, Any]:
        return {**super().learnt(), "rounds_ms": (self._took_ms, self._foretold_ms)}

    def recall(self, learnt: Mapping[str, Any], here: bool) -> None:
        super().recall(learnt, here)
        self._forget()
        try:
            took_ms, foretold_ms = map(float, learnt["rounds_ms"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return
        if here and foretold_ms < math.inf and foretold_ms / 4.0 < took_ms < foretold_ms * 4.0:
            self._took_ms, self._foretold_ms = took_ms / 2.0, foretold_ms / 2.0

    def answered(self, *, rtt_ms: float | None, computed_ms: float, drafted: int) -> None:
        streamed = rtt_ms is None and not drafted
        self._length = drafted
        if not (streamed and self._looking.disturbing and self.measured.decode_ms.samples):
            super().answered(rtt_ms=rtt_ms, computed_ms=computed_ms, drafted=drafted)
        self._looking.answered(computed_ms if streamed else None, self._alone_ms())
        self._forget()

    def disturbed(self) -> None:
        self._looking.disturb()

    def _forget(self) -> None:
        """What was computed from the measurements holds no longer."""
        self._best = self._may_pay = None

    def drafted(self, elapsed_ms: float) -> None:
        super().drafted(elapsed_ms)
        self.disturbed()

    def judged(self, probabilities: Sequence[float], accepted: int, rejected: bool) -> None:
        super().judged(probabilities, accepted, rejected)
        self._anew = rejected
        self._forget()
        if probabilities:
            self._unlooked = 0

    def progressed(self, tokens: int, elapsed_ms: float, mode: Mode) -> None:
        super().progressed(tokens, elapsed_ms, mode)
        self._spare_ms = min(self._spare_ms + self._SHARE * elapsed_ms, 2.0 * self._trial_ms())
        self._looking.progressed(elapsed_ms, self._alone_ms(), known=self._known)
        if mode != "speculate":
            self._unlooked += tokens
            if self._unlooked >= self._AGE:
                self._unlooked = 0
                self.measured.acceptance.doubt(self._OLD)
                self._took_ms, self._foretold_ms = self._took_ms / 2.0, self._foretold_ms / 2.0
            return
        longest_ms = self._STALL * self._round_ms()
        stalled, self._stalled = self._stalled, elapsed_ms > longest_ms
        if self._stalled and not stalled:
            elapsed_ms = longest_ms
        self._lost_ms = max(0.0, self._lost_ms + elapsed_ms - tokens * self._alone_ms())
        keep = 1.0 - 1.0 / self._LASTING
        self._took_ms = self._took_ms * keep + elapsed_ms
        foretold_ms = tokens * self.token_ms(self.best(), self.acceptance) * self._slow()
        self._foretold_ms = self._foretold_ms * keep + foretold_ms
        if self._length:
            anew_ms, interval_ms = self._durations_ms(self._length)
            hit = 0.0 if self._anew else self.acceptance  # of the guess at the target's own token
            keep = 1.0 - 1.0 / self._LATELY
            self._rounds_took_ms = self._rounds_took_ms * keep + elapsed_ms
            self._rounds_foretold_ms = self._rounds_foretold_ms * keep + (1.0 - hit) * anew_ms + hit * interval_ms
