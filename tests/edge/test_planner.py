"""The planner on synthetic times: it lengthens drafts that pay, drops those that do not, and says why."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from foredraft_edge.planner import AdaptivePlanner, Estimate, FixedPlanner, Planner


class Run:
    """A text whose rounds take what the theory says; the clock is a sum."""

    def __init__(
        self,
        planner: Planner,
        *,
        draft_ms: float,
        rtt_ms: float,
        verify_ms: float,
        acceptance: float,
        decode_ms: float | None = None,
    ) -> None:
        self.planner = planner
        self.draft_ms = draft_ms
        self.rtt_ms = rtt_ms
        self.verify_ms = verify_ms
        self.decode_ms = verify_ms if decode_ms is None else decode_ms
        self.acceptance = acceptance
        self.written = 0
        self.elapsed_ms = 0.0
        self.modes: list[tuple[int, str, str]] = []
        """(written, mode, reason) of each decision."""
        self.lengths: list[int] = []
        self._dice = random.Random(1)

    def write(self, tokens: int) -> Run:
        end = self.written + tokens
        while self.written < end:
            plan = self.planner.plan(self.written)
            self.modes.append((self.written, plan.mode, plan.reason))
            if plan.mode == "cloud":
                self._stream(min(end - self.written, plan.tokens or end))
            else:
                self._round()
        return self

    def _stream(self, count: int) -> None:
        self.elapsed_ms += self.rtt_ms
        for _ in range(count):
            self.planner.answered(rtt_ms=None, computed_ms=self.decode_ms, drafted=0)
            self.planner.progressed(1, self.decode_ms, "cloud")
            self.elapsed_ms += self.decode_ms
            self.written += 1

    def _round(self) -> None:
        probabilities: list[float] = []
        while not self.planner.enough(probabilities, idle=True):
            self.planner.drafted(self.draft_ms)
            probabilities.append(0.8)
        accepted = 0
        while accepted < len(probabilities) and self._dice.random() < self.acceptance:
            accepted += 1
        took = self.rtt_ms + self.verify_ms + len(probabilities) * self.draft_ms
        self.planner.judged(probabilities, accepted, accepted < len(probabilities))
        self.planner.answered(rtt_ms=self.rtt_ms, computed_ms=self.verify_ms, drafted=len(probabilities))
        self.planner.progressed(accepted + 1, took, "speculate")
        self.lengths.append(len(probabilities))
        self.elapsed_ms += took
        self.written += accepted + 1

    def mean_length(self, last: int = 20) -> float:
        return sum(self.lengths[-last:]) / len(self.lengths[-last:])


def share_of(run: Run, mode: str) -> float:
    """Share of the decisions from the middle on."""
    late = [chosen for _, chosen, _ in run.modes[len(run.modes) // 2 :]]
    return late.count(mode) / len(late)


def test_a_fast_draft_and_a_slow_cloud_speculate_with_growing_length():
    run = Run(AdaptivePlanner(), draft_ms=2, rtt_ms=20, verify_ms=60, acceptance=0.9).write(400)
    assert run.modes[0][1] == "cloud"  # a few tokens to know what to beat
    assert share_of(run, "speculate") == 1.0
    assert run.mean_length() > run.lengths[0] or run.mean_length() > 8
    assert run.elapsed_ms / 400 < 60 / 2


@pytest.mark.parametrize(("draft_ms", "acceptance"), [(80, 0.9), (5, 0.0), (40, 0.3)])
def test_a_draft_that_does_not_pay_is_dropped_tried_again_and_the_reason_told(draft_ms, acceptance):
    run = Run(AdaptivePlanner(), draft_ms=draft_ms, rtt_ms=20, verify_ms=40, acceptance=acceptance).write(1000)
    assert run.elapsed_ms / 1000 < 40 * 1.12
    cloud = [(written, reason) for written, mode, reason in run.modes[1:] if mode == "cloud"]
    assert len(cloud) >= 2, "one trial, and no other"
    _, reason = cloud[0]
    assert "ms a token" in reason
    assert "next trial at token" in reason
    pauses = [int(reason.rsplit(" ", 1)[1]) - written for written, reason in cloud]
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0]  # ever more rarely
    trials = [mode for _, mode, _ in run.modes].count("speculate")
    assert trials < 0.1 * 1000


def test_speculation_comes_back_when_it_pays_again():
    run = Run(AdaptivePlanner(), draft_ms=5, rtt_ms=20, verify_ms=40, acceptance=0.0).write(150)
    assert run.modes[-1][1] == "cloud"
    run.acceptance = 0.9
    run.write(2500)
    assert [mode for _, mode, _ in run.modes[-10:]] == ["speculate"] * 10


def test_the_length_reacts_to_the_round_trip():
    near, far = (
        Run(AdaptivePlanner(switch=False), draft_ms=8, rtt_ms=rtt_ms, verify_ms=20, acceptance=0.75).write(400)
        for rtt_ms in (1, 200)
    )
    assert far.mean_length() > near.mean_length() + 1


def test_the_length_reacts_to_the_drafting_time():
    fast, slow = (
        Run(AdaptivePlanner(switch=False), draft_ms=draft_ms, rtt_ms=20, verify_ms=40, acceptance=0.75).write(400)
        for draft_ms in (0.5, 25)
    )
    assert fast.mean_length() > slow.mean_length() + 1


def test_the_length_reacts_to_the_acceptance():
    good, bad = (
        Run(AdaptivePlanner(switch=False), draft_ms=8, rtt_ms=20, verify_ms=40, acceptance=acceptance).write(400)
        for acceptance in (0.95, 0.2)
    )
    assert good.mean_length() > bad.mean_length() + 1
    assert bad.mean_length() >= 1  # a draft of nothing would teach nothing


@pytest.mark.parametrize("longest", [1, 4, 16])
def test_no_draft_is_longer_than_allowed(longest):
    run = Run(AdaptivePlanner(longest=longest), draft_ms=0.1, rtt_ms=300, verify_ms=40, acceptance=1.0).write(200)
    assert max(run.lengths) <= longest


def test_without_switching_it_always_speculates():
    run = Run(AdaptivePlanner(switch=False), draft_ms=200, rtt_ms=1, verify_ms=1, acceptance=0.0).write(100)
    assert {mode for _, mode, _ in run.modes} == {"speculate"}


def test_fixed_is_fixed():
    planner = FixedPlanner(3)
    lengths = [next(n for n in range(9) if planner.enough([0.1] * n, idle=idle)) for idle in (True, False)]
    assert lengths == [3, 3]
    assert {planner.plan(written).mode for written in (0, 5, 5000)} == {"speculate"}
    assert FixedPlanner(0).enough([], idle=False)
    assert FixedPlanner(0, "cloud").plan(7).mode == "cloud"


def survival(planner: Planner, probabilities: Sequence[float]) -> float:
    return planner.survival(probabilities)


def test_survival_learns_how_far_to_trust_the_draft():
    boaster, modest = AdaptivePlanner(), AdaptivePlanner()
    for _ in range(200):
        boaster.judged([0.95], 0, True)
        modest.judged([0.35], 1, False)
    assert survival(boaster, [0.95]) < 0.1
    assert survival(modest, [0.35]) > 0.9
    for planner in (boaster, modest):
        assert survival(planner, []) == 1.0
        for probability in (0.0, 0.5, 1.0):
            assert 0.0 <= survival(planner, [probability]) <= 1.0
            assert survival(planner, [probability, 0.5]) <= survival(planner, [probability])


def test_a_token_that_a_stop_cut_off_is_not_held_against_the_draft():
    planner = AdaptivePlanner()
    before = planner.measured.acceptance.samples
    planner.judged([0.9, 0.9, 0.9], 1, rejected=False)
    assert planner.measured.acceptance.samples == before + 1


def test_estimates_begin_with_the_first_sample_and_forget():
    estimate = Estimate(40.0, memory=4.0)
    estimate.add(10.0)
    assert estimate.value == 10.0
    for _ in range(40):
        estimate.add(50.0)
    assert estimate.value == pytest.approx(50.0, rel=0.01)


def test_the_round_trip_is_learned_from_rounds_that_were_waited_for_only():
    planner = FixedPlanner(4)
    believed = planner.measured.rtt_ms.value
    planner.answered(rtt_ms=None, computed_ms=30.0, drafted=4)
    assert planner.measured.rtt_ms.value == believed
    planner.answered(rtt_ms=55.0, computed_ms=30.0, drafted=4)
    assert planner.measured.rtt_ms.value == 55.0
    planner.answered(rtt_ms=-3.0, computed_ms=30.0, drafted=4)
    assert planner.measured.rtt_ms.value >= 0.0
