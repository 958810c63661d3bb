"""How much to draft, and whether to draft at all, from measured numbers only.

The theory. Let a draft of ``k`` tokens survive to its i-th token with probability ``s_i``; a round then commits
``E(k) = 1 + s_1 + … + s_k`` tokens. It takes the link ``rtt``, the server ``verify`` and the device ``k · draft``; what of
that stands in the critical path depends on what is done meanwhile:

=========  ==================================================================================
waiting    ``rtt + verify + k · draft``
ahead      ``rtt + verify`` when the guess held, else the same as waiting
chained    ``verify`` when the guess held (the next round is already there), else as waiting
cloud      ``decode`` for one token, streamed: the round trip is paid once for the whole text
=========  ==================================================================================

*Length.* Another drafted token is worth ``s_{k+1}`` times what a token costs at present, and costs its drafting time, if
the server is idle meanwhile, and what a row more costs the server. Draft on while worth exceeds cost. ``s`` comes from the
draft's own probabilities, corrected by how often tokens of that probability were in fact accepted.

*Mode.* Speculation is dropped when its measured time per token stays above the cloud's own for several rounds on end (a
breach counter, as in HELIOS, arXiv:2504.10724), and tried again after a cool-down that doubles each time it fails. The
cloud's own time is measured, too: the first tokens of a text are streamed by the cloud while the device reads the prompt.
"""

from __future__ import annotations

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
            if self.measured.decode_ms.samples:
                growth = (self.measured.verify_ms.value - self.measured.decode_ms.value) / drafted
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
    """The theory above.

    Args:
        longest: upper bound of a draft.
        switch: may leave speculation for the cloud alone and come back; otherwise only the length adapts.
        warm_up: tokens streamed by the cloud at the start, which measure what speculation has to beat.
    """

    _PATIENCE = 6
    """Rounds on end that must be slower than the cloud alone before speculation is dropped."""

    def __init__(self, *, longest: int = 16, switch: bool = True, warm_up: int = 4) -> None:
        super().__init__()
        self._longest = longest
        self._switch = switch
        self._warm_up = warm_up
        self._breaches = 0
        self._cooldown = 48
        self._resume_at = 0

    def plan(self, written: int) -> Plan:
        if not self._switch:
            return Plan("speculate", "the caller asked for speculation")
        if written < self._warm_up:
            return Plan("cloud", f"the first {self._warm_up} tokens measure the cloud alone", self._warm_up - written)
        measured = self.measured
        if self._breaches >= self._PATIENCE:
            self._breaches = self._PATIENCE // 2  # the next trial has half the patience
            self._resume_at = written + self._cooldown
            self._cooldown = min(self._cooldown * 2, 1024)
        if written < self._resume_at:
            return Plan(
                "cloud",
                f"speculation took {measured.token_ms.value:.1f} ms a token, the cloud alone takes "
                f"{measured.decode_ms.value:.1f}; next trial at token {self._resume_at}",
                self._resume_at - written,
            )
        if not measured.token_ms.samples:
            return Plan("speculate", "first trial")
        return Plan(
            "speculate",
            f"{measured.token_ms.value:.1f} ms a token against {measured.decode_ms.value:.1f} of the cloud alone",
        )

    def enough(self, probabilities: Sequence[float], *, idle: bool) -> bool:
        if not probabilities:
            return False
        if len(probabilities) >= self._longest:
            return True
        measured = self.measured
        worth = self.survival(probabilities) * measured.acceptance.value * measured.token_ms.value
        cost = measured.row_ms + (measured.draft_ms.value if idle else 0.0)
        return worth <= cost or self.survival(probabilities) < 0.05

    def progressed(self, tokens: int, elapsed_ms: float, mode: Mode) -> None:
        super().progressed(tokens, elapsed_ms, mode)
        if mode == "speculate" and self.measured.decode_ms.samples:
            slower = self.measured.token_ms.value > self.measured.decode_ms.value
            self._breaches = self._breaches + 1 if slower else max(0, self._breaches - 2)
