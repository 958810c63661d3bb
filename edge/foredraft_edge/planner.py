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

*Mode.* ``ms(k)`` is taken at the highest acceptance that what was seen does not speak against: hope is cheap, and a
mode that is never tried teaches nothing. Speculation is begun if it may soon pay back the round that a trial may cost.
It is dropped when it has in fact lost time against the cloud alone and ``ms(k)`` says that it will go on doing so; or
when it has lost so much that the formula must be wrong: on the way there hope shrinks to what is believed. The loss is
a sum that never falls below 0 (Page's CUSUM test, Biometrika 41, 1954), so that old gains do not hide a link that has
become slow. Then the cloud writes alone until what another trial may lose is a small share of the time passed; every
trial that fails doubles the wait.

*Beginning.* What speculation has to beat is measured: the cloud streams a few tokens, while the device reads the
prompt. Where the way is short that waits until speculation has been seen, and is left out if a token takes clearly less
than a pass: a few tokens of the cloud's are dear where speculation is fast. Where it is long, the cloud's first stream
is long, too, for its end costs a round trip. The figures behind the constants: docs/planning.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["AdaptivePlanner", "Estimate", "FixedPlanner", "Measurements", "Mode", "Plan", "Planner"]

Mode = str
"""``"speculate"``, ``"cloud"`` or ``"edge"``."""


@dataclass(slots=True)
class Estimate:
    """A running mean that forgets: after ``memory`` samples a sample weighs 1/e."""

    value: float
    """What is believed before the first sample."""
    memory: float = 12.0
    samples: int = 0

    def add(self, sample: float) -> None:
        self.samples += 1
        weight = max(1.0 / self.samples, 1.0 / self.memory)
        self.value += weight * (sample - self.value)

    def doubt(self, samples: int = 0) -> None:
        """Let the value stand for so many samples at most: it is old."""
        self.samples = min(self.samples, samples)


@dataclass(slots=True)
class Measurements:
    """What the planner knows, in milliseconds unless said otherwise."""

    draft_ms: Estimate = field(default_factory=lambda: Estimate(5.0, 32.0))
    """Drafting one token."""
    rtt_ms: Estimate = field(default_factory=lambda: Estimate(20.0))
    """A round's wait less the server's own time."""
    verify_ms: Estimate = field(default_factory=lambda: Estimate(40.0))
    """A verification pass."""
    row_ms: float = 0.0
    """What one more drafted token adds to a pass."""
    decode_ms: Estimate = field(default_factory=lambda: Estimate(40.0))
    """One token that the cloud writes alone."""
    token_ms: Estimate = field(default_factory=lambda: Estimate(40.0, 16.0))
    """One committed token while speculating, everything included."""
    acceptance: Estimate = field(default_factory=lambda: Estimate(0.5, 64.0))
    """Probability that a drafted token whose predecessors were accepted is accepted (no unit)."""


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

    def plan(self, written: int) -> Plan:
        """What to do next, when ``written`` tokens follow the prompt and nothing is in flight."""

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


class _Calibration:
    """How often a drafted token is accepted, given the draft's probability of it.

    Ten bins, each a decayed count that starts from a belief worth a few samples.
    """

    _BINS = 10
    _PRIOR_WEIGHT = 4.0
    _DECAY = 0.99

    def __init__(self) -> None:
        middles = [(index + 0.5) / self._BINS for index in range(self._BINS)]
        self._tried = [self._PRIOR_WEIGHT] * self._BINS
        self._accepted = [self._PRIOR_WEIGHT * (0.2 + 0.7 * middle) for middle in middles]

    def __call__(self, probability: float) -> float:
        index = self._bin(probability)
        return self._accepted[index] / self._tried[index]

    def add(self, probability: float, accepted: bool) -> None:
        index = self._bin(probability)
        self._tried[index] = self._tried[index] * self._DECAY + 1.0
        self._accepted[index] = self._accepted[index] * self._DECAY + float(accepted)

    def _bin(self, probability: float) -> int:
        return min(int(probability * self._BINS), self._BINS - 1)


class _Measuring:
    """What every planner measures."""

    def __init__(self) -> None:
        self.measured = Measurements()
        self._calibration = _Calibration()
        self._drafted = Estimate(0.0)
        """Drafted tokens in a verification pass (no unit)."""

    def survival(self, probabilities: Sequence[float]) -> float:
        survival = 1.0
        for probability in probabilities:
            survival *= self._calibration(probability)
        return survival

    def drafted(self, elapsed_ms: float) -> None:
        self.measured.draft_ms.add(elapsed_ms)

    def judged(self, probabilities: Sequence[float], accepted: int, rejected: bool) -> None:
        for index, probability in enumerate(probabilities[: accepted + rejected]):
            self._calibration.add(probability, index < accepted)
            self.measured.acceptance.add(float(index < accepted))

    def answered(self, *, rtt_ms: float | None, computed_ms: float, drafted: int) -> None:
        if rtt_ms is not None:
            self.measured.rtt_ms.add(max(0.0, rtt_ms))
        if drafted:
            self.measured.verify_ms.add(computed_ms)
            self._drafted.add(drafted)
            if self.measured.decode_ms.samples:
                growth = (self.measured.verify_ms.value - self.measured.decode_ms.value) / self._drafted.value
                self.measured.row_ms = max(0.0, growth)
        else:
            self.measured.decode_ms.add(computed_ms)

    def progressed(self, tokens: int, elapsed_ms: float, mode: Mode) -> None:
        if mode == "speculate":
            for _ in range(tokens):
                self.measured.token_ms.add(elapsed_ms / tokens)


class FixedPlanner(_Measuring):
    """Always the same mode and draft length; for baselines, tests and users who know better."""

    def __init__(self, length: int, mode: Mode = "speculate") -> None:
        super().__init__()
        self._length = length
        self._mode = mode

    def plan(self, written: int) -> Plan:
        return Plan(self._mode, "fixed by the caller")

    def enough(self, probabilities: Sequence[float], *, idle: bool) -> bool:
        return len(probabilities) >= self._length


class AdaptivePlanner(_Measuring):
    """The theory above. May serve one text after another, and remembers.

    Args:
        longest: upper bound of a draft.
        switch: may leave speculation for the cloud alone and come back; otherwise only the length adapts.
        warm_up: tokens streamed by the cloud at the start, which measure what speculation has to beat.
        window: rounds that the loop may have in flight; 0 if it waits for each verdict before it drafts on.
    """

    _SHARE = 0.015
    """Of the time passed, what another trial may lose."""
    _PAYBACK = 48
    """Tokens within which a first trial must be able to pay back the round that it may cost."""
    _GRACE = 5.0
    """Rounds' worth of loss that end a trial whatever the formula says; hope shrinks on the way there."""
    _STALL = 2.0
    """Rounds' worth of time that a commit counts for at most, if the one before it took less: a machine or link that stands
    still for a moment says nothing about the mode, and would have stopped the cloud's stream, too."""
    _FASTER = 0.9
    """Of the cloud's own tokens as measured: what a pass over a draft must take less than to be believed instead."""
    _PRIOR_WEIGHT = 3.0
    """Drafted tokens that the belief in :data:`_PRIOR` is worth."""
    _PRIOR = 0.75

    _DEVIATIONS = 1.5
    """Of the belief in the acceptance: with one, unlucky beginnings ended trials that would have paid."""
    _SOME = 6
    """Samples of acceptance before which nothing is concluded from it."""
    _OLD = 12
    """Samples that an acceptance from before a cool-down is worth."""
    _SHORT_WAY_MS = 40.0
    """Over a round trip of at most this, speculation is begun before anything is known."""
    _LONG_WAY_MS = 200.0
    """Over a longer round trip speculation seldom pays, and the first stream of the cloud's is not ended so soon."""
    _GAP_SHARE = 0.025
    """Of that stream, the round trip that its end costs, if a token takes what is believed of it."""
    _CLEARLY = 0.6
    """Of a pass: a token that takes less than this is not held against the cloud's own, which then need not be measured."""

    def __init__(self, *, longest: int = 16, switch: bool = True, warm_up: int = 3, window: int = 2) -> None:
        super().__init__()
        self._longest = longest
        self._switch = switch
        self._warm_up = warm_up
        self._window = window
        self._lost_ms = 0.0
        self._stalled = False
        self._why = ""
        self._failures = 0
        self._resume_at = 0
        self._waited = False
        self._before = 0
        """Tokens of earlier texts."""
        self._written = 0
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
        believed = self.acceptance
        deviation = math.sqrt(believed * (1.0 - believed) / (self._evidence + self._PRIOR_WEIGHT))
        return min(0.98, believed + self._DEVIATIONS * self._patience * deviation)

    @property
    def _patience(self) -> float:
        """1 as long as nothing was lost, 0 when the trial is over: what was lost in fact speaks against hope."""
        return max(0.0, 1.0 - self._lost_ms / (self._GRACE * self._round_ms())) if self._lost_ms else 1.0

    @property
    def _evidence(self) -> float:
        """Samples of acceptance that still count."""
        return min(self.measured.acceptance.samples, self.measured.acceptance.memory)

    def token_ms(self, length: int, acceptance: float) -> float:
        """``ms(k)`` of the theory, at present."""
        draft = self.measured.draft_ms.value
        server = self._server_ms(length)
        flight = self.measured.rtt_ms.value + server
        committed = sum(acceptance**index for index in range(length + 1))
        if not self._window:
            return (length * draft + flight) / committed
        hit = acceptance ** (length + 1)
        interval = max(server, (length + 1) * draft, flight / self._window)
        return ((1.0 - hit) * ((length + 0.5) * draft + flight) + hit * interval) / committed

    def best(self) -> int:
        """The draft length that costs least."""
        if self._best is None:
            self._best, _ = self._least(self.acceptance)
        return self._best

    def promise_ms(self) -> float:
        """What a token may be hoped to cost at the best length."""
        return self._least(self.hope)[1]

    def _least(self, acceptance: float) -> tuple[int, float]:
        costs = [self.token_ms(length, acceptance) for length in range(1, self._longest + 1)]
        least = min(costs)
        return costs.index(least) + 1, least

    def _server_ms(self, length: int) -> float:
        """A pass over a draft of so many tokens."""
        verify, decode = self.measured.verify_ms, self.measured.decode_ms
        if not verify.samples and decode.samples:
            return decode.value
        return verify.value + self.measured.row_ms * (length - self._drafted.value)

    # --- decisions

    def plan(self, written: int) -> Plan:
        if not self._switch:
            return Plan("speculate", "the caller asked for speculation")
        if written < self._written:  # another text
            self._before += self._written
        self._written = written
        passed = self._before + written
        if self._to_be_measured():
            tokens = self._first_tokens()
            return Plan("cloud", f"{tokens} tokens measure the cloud alone", tokens)
        if not self.measured.verify_ms.samples and not self.measured.decode_ms.samples:
            return Plan("speculate", f"nothing is known yet, but the round trip: {self.measured.rtt_ms.value:.0f} ms")
        alone_ms = self._alone_ms()
        expected_ms = self.token_ms(self.best(), self.acceptance)
        promise = f"drafts of {self.best()} take about {expected_ms:.1f} ms a token, the cloud alone {alone_ms:.1f}"
        if passed >= self._resume_at and self._failed(alone_ms):
            self._failures += 1
            self._resume_at = passed + self._cooldown(alone_ms)
            self._why = f", but {self._lost_ms:.0f} ms were lost with drafts" if self._lost_ms else ""
            self._lost_ms = 0.0
        wait = self._resume_at - passed
        if wait > 0:
            self._waited = True
            return Plan("cloud", f"{promise}{self._why}; next trial in {wait} tokens", wait)
        if self._waited:  # link and text may be others by now
            self._waited = False
            self.measured.rtt_ms.doubt()
            self.measured.acceptance.doubt(self._OLD)
            self._best = None
        return Plan("speculate", promise)

    def _to_be_measured(self) -> bool:
        """Whether to let the cloud write a few tokens alone, to know what speculation has to beat."""
        measured = self.measured
        if measured.decode_ms.samples or not self._warm_up:
            return False
        if not measured.verify_ms.samples:
            return not measured.rtt_ms.samples or measured.rtt_ms.value > self._SHORT_WAY_MS
        if self._evidence < self._SOME:
            return False
        return self.token_ms(self.best(), self.acceptance) > self._CLEARLY * measured.verify_ms.value

    def _first_tokens(self) -> int:
        """How many tokens measure the cloud: over a long way many, since the end of a stream costs a round trip."""
        rtt_ms = self.measured.rtt_ms.value
        if self.measured.verify_ms.samples or rtt_ms <= self._LONG_WAY_MS:
            return self._warm_up
        return max(self._warm_up, round(rtt_ms / (self._GAP_SHARE * self.measured.decode_ms.value)))

    def _alone_ms(self) -> float:
        """A token of the cloud alone: at most a pass over a draft, whatever a few tokens at the start of a text took."""
        decode, verify = self.measured.decode_ms, self.measured.verify_ms
        if not decode.samples:
            return verify.value
        sure = verify.samples >= self._SOME and verify.value < self._FASTER * decode.value
        return verify.value if sure else decode.value

    def _failed(self, alone_ms: float) -> bool:
        """Whether the cloud alone should write for a while."""
        if self._lost_ms:
            return self.promise_ms() > alone_ms or self._lost_ms > self._GRACE * self._round_ms()
        # A first trial may cost a round: if hope is right, it must soon be paid back.
        saved_ms = (alone_ms - self.promise_ms()) * self._PAYBACK
        return not self._failures and not self._tried and saved_ms < self._trial_ms()

    def _round_ms(self) -> float:
        """A round that comes to nothing."""
        length = self.best()
        return self.measured.rtt_ms.value + self._server_ms(length) + length * self.measured.draft_ms.value

    def _trial_ms(self) -> float:
        """What a trial may cost: a round, and the way back to the cloud's stream."""
        return self._round_ms() + self.measured.rtt_ms.value

    def _cooldown(self, alone_ms: float) -> int:
        """Tokens for the cloud alone to write, until what a trial loses is a small share of their time."""
        tokens = self._trial_ms() / (self._SHARE * max(alone_ms, 0.001)) * float(2 ** (self._failures - 1))
        return int(min(max(tokens, 32.0), 4096.0))

    def enough(self, probabilities: Sequence[float], *, idle: bool) -> bool:
        if not probabilities:
            return False
        if len(probabilities) >= self._longest:
            return True
        acceptance = self.acceptance
        lowest: float = acceptance ** (self.best() + 0.5)
        return self.survival(probabilities) * acceptance < lowest

    # --- what happened

    @property
    def _tried(self) -> bool:
        return self.measured.token_ms.samples > 0

    def answered(self, *, rtt_ms: float | None, computed_ms: float, drafted: int) -> None:
        super().answered(rtt_ms=rtt_ms, computed_ms=computed_ms, drafted=drafted)
        self._best = None

    def judged(self, probabilities: Sequence[float], accepted: int, rejected: bool) -> None:
        super().judged(probabilities, accepted, rejected)
        self._best = None

    def progressed(self, tokens: int, elapsed_ms: float, mode: Mode) -> None:
        super().progressed(tokens, elapsed_ms, mode)
        if mode == "speculate":
            longest_ms = self._STALL * self._round_ms()
            stalled, self._stalled = self._stalled, elapsed_ms > longest_ms
            if self._stalled and not stalled:
                elapsed_ms = longest_ms
            self._lost_ms = max(0.0, self._lost_ms + elapsed_ms - tokens * self._alone_ms())
