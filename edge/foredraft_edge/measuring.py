"""What is measured of link, server and draft while texts are written; :mod:`.planner` decides by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Calibration", "Estimate", "Measurements", "Measuring"]


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
    decode_ms: Estimate = field(default_factory=lambda: Estimate(40.0, 32.0))
    """One token that the cloud writes alone."""
    token_ms: Estimate = field(default_factory=lambda: Estimate(40.0, 16.0))
    """One committed token while speculating, everything included."""
    acceptance: Estimate = field(default_factory=lambda: Estimate(0.5, 320.0))
    """Probability that a drafted token whose predecessors were accepted is accepted (no unit)."""


class Calibration:
    """How often a drafted token is accepted, given the draft's probability of it.

    Ten bins, each a decayed count. What is believed of a bin before it has seen much is a line that knows nothing of the draft,
    scaled by one number that all bins teach: by how many tokens were wrong where that line let so many be expected. A draft that
    is right even where it is unsure (a copy of its target in fewer bits) shows that within a dozen tokens; ten separate
    bins would take hundreds, and draft too little until then.
    """

    _BINS = 10
    _PRIOR_WEIGHT = 4.0
    """Tokens that the belief of a bin is worth."""
    _ERRORS = 1.0
    """Wrong tokens that the line itself is worth."""
    _DECAY = 0.99

    def __init__(self) -> None:
        self._tried = [0.0] * self._BINS
        self._accepted = [0.0] * self._BINS
        self._scale = self._taught()

    def __call__(self, probability: float) -> float:
        index = self._bin(probability)
        prior = 1.0 - self._scale * self._line(index)
        tried, accepted = self._tried[index], self._accepted[index]
        return (self._PRIOR_WEIGHT * prior + accepted) / (self._PRIOR_WEIGHT + tried)

    def _line(self, index: int) -> float:
        """Share of wrong tokens in a bin of a draft that nothing is known of."""
        return 0.8 - 0.7 * (index + 0.5) / self._BINS

    def _taught(self) -> float:
        """What the line is to be multiplied by."""
        expected = sum(tried * self._line(index) for index, tried in enumerate(self._tried))
        wrong = sum(self._tried) - sum(self._accepted)
        return min(1.0 / self._line(0), (self._ERRORS + wrong) / (self._ERRORS + expected))

    def counts(self) -> list[tuple[float, float]]:
        """Tokens tried and accepted, by bin."""
        return list(zip(self._tried, self._accepted, strict=True))

    def recall(self, counts: Sequence[tuple[float, float]]) -> None:
        """Begin with these counts, at most half of what the memory holds.

        Raises:
            ValueError, TypeError: they make no sense.
        """
        if len(counts) != self._BINS or not all(0.0 <= right <= tried < math.inf for tried, right in counts):
            raise ValueError("no calibration")
        for index, (tried, right) in enumerate(counts):
            if tried > 0.0:
                weight = min(tried, 0.5 / (1.0 - self._DECAY))
                self._tried[index], self._accepted[index] = weight, weight * right / tried
        self._scale = self._taught()

    def add(self, probability: float, accepted: bool) -> None:
        index = self._bin(probability)
        self._tried[index] = self._tried[index] * self._DECAY + 1.0
        self._accepted[index] = self._accepted[index] * self._DECAY + float(accepted)
        self._scale = self._taught()

    def _bin(self, probability: float) -> int:
        return min(int(probability * self._BINS), self._BINS - 1)


_RECALLED = {"draft_ms": 4, "verify_ms": 4, "decode_ms": 4, "acceptance": 24, "drafted": 4}
"""What lasts from one process to the next, and the samples that it is worth then."""


class Measuring:
    """What every planner measures."""

    def __init__(self) -> None:
        self.measured = Measurements()
        self._calibration = Calibration()
        self._drafted = Estimate(0.0)
        """Drafted tokens in a verification pass (no unit)."""

    def survival(self, probabilities: Sequence[float]) -> float:
        survival = 1.0
        for probability in probabilities:
            survival *= self._calibration(probability)
        return survival

    def drafted(self, elapsed_ms: float) -> None:
        self.measured.draft_ms.add(elapsed_ms)

    # --- from one process to the next

    def learnt(self) -> dict[str, Any]:
        """What is worth keeping, for :meth:`recall`."""
        measured = self.measured
        kept = {name: (each.value, each.samples) for name, each in self._lasting().items() if each.samples}
        return {"estimates": kept, "row_ms": measured.row_ms, "calibration": self._calibration.counts()}

    def recall(self, learnt: Mapping[str, Any], here: bool) -> None:
        """Believe what was :meth:`learnt` before, a little; ``here``: with the same server. Nonsense is not believed."""
        try:
            lasting = self._lasting() if here else self._lasting("draft_ms", "acceptance")
            kept = {name: (float(value), int(count)) for name, (value, count) in learnt["estimates"].items()}
            row_ms, counts = float(learnt["row_ms"]), learnt["calibration"]
            sane = all(0.0 <= value < 1e6 and count > 0 for value, count in kept.values())
            if not sane or not 0.0 <= row_ms < 1e6 or kept.get("acceptance", (0.0, 1))[0] > 1.0:
                return
            self._calibration.recall(counts)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return
        for name, (value, count) in kept.items():
            if name in lasting:
                lasting[name].value, lasting[name].samples = value, min(count, _RECALLED[name])
        if here:
            self.measured.row_ms = row_ms

    def _lasting(self, *names: str) -> dict[str, Estimate]:
        known = {name: getattr(self.measured, name) for name in _RECALLED if name != "drafted"}
        known["drafted"] = self._drafted
        return {name: each for name, each in known.items() if not names or name in names}

    # --- what happened

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

    def announced(self, pass_ms: float, row_ms: float) -> None:
        """The server has said what a pass over one token takes, and what each drafted one adds; a pass of ours weighs more."""
        if pass_ms > 0.0 and not self.measured.decode_ms.samples and not self.measured.verify_ms.samples:
            self.measured.decode_ms.add(pass_ms)
            self.measured.row_ms = row_ms

    def progressed(self, tokens: int, elapsed_ms: float, mode: str) -> None:
        if mode == "speculate":
            for _ in range(tokens):
                self.measured.token_ms.add(elapsed_ms / tokens)
