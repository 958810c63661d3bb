"""What the planner chooses, in virtual time, against the best it could have chosen."""

from __future__ import annotations

import random
import re
import statistics

import pytest

from foredraft_bench.simulate import planner_for, simulate
from foredraft_bench.virtual_models import Replayed, Skill, Times
from foredraft_edge.measuring import Calibration
from foredraft_edge.planner import AdaptivePlanner
from foredraft_shared.transports.recording import LinkRecording
from foredraft_shared.transports.relay import LinkSettings

VERIFY_MS = 40.0
GRID = [
    (rtt_ms, ratio, acceptance)
    for rtt_ms in (1.0, 60.0, 600.0)
    for ratio in (0.02, 0.25, 1.0)
    for acceptance in (0.0, 0.6, 0.9)
]


def told(*, draft_ms: float, rtt_ms: float, verify_ms: float, acceptance: float, window: int = 2) -> AdaptivePlanner:
    """A planner that has seen many rounds of this kind."""
    planner = AdaptivePlanner(window=window)
    dice = random.Random(1)
    for _ in range(600):
        planner.drafted(draft_ms)
        planner.answered(rtt_ms=None, computed_ms=verify_ms, drafted=0)
        planner.answered(rtt_ms=rtt_ms, computed_ms=verify_ms, drafted=1)
        right = dice.random() < acceptance
        planner.judged([acceptance], int(right), not right)
    return planner


@pytest.mark.parametrize(
    ("rtt_ms", "acceptance", "expected"),
    # The best lengths of a device that waits: draft 10 ms, verify 40 ms, by the closed formula.
    [(5.0, 0.6, 2), (100.0, 0.6, 3), (5.0, 0.8, 4), (100.0, 0.8, 7), (5.0, 0.9, 6), (100.0, 0.9, 11)],
)
def test_a_device_that_waits_drafts_what_the_closed_formula_says(rtt_ms, acceptance, expected):
    planner = told(draft_ms=10.0, rtt_ms=rtt_ms, verify_ms=40.0, acceptance=acceptance, window=0)
    assert planner.acceptance == pytest.approx(acceptance, abs=0.08)
    assert abs(min(range(1, 17), key=lambda length: planner.token_ms(length, acceptance)) - expected) <= 1
    # What it has measured is a little off, and so is the length.
    assert abs(planner.best() - expected) <= 2


def test_chained_rounds_are_as_long_as_the_server_is_busy():
    # 40 ms of verifying are four tokens of drafting: three and the guess before them.
    assert told(draft_ms=10.0, rtt_ms=1.0, verify_ms=40.0, acceptance=0.95).best() == 3


def test_a_draft_goes_on_where_it_is_sure_and_stops_where_it_is_not():
    planner = told(draft_ms=5.0, rtt_ms=60.0, verify_ms=40.0, acceptance=0.8)
    for _ in range(200):
        planner.judged([0.95], 1, False)
        planner.judged([0.35], 0, True)
    for _ in range(100):  # what is believed of the average is as before
        planner.judged([0.85], 1, False)
        planner.judged([0.85], 1, False)
        planner.judged([0.85], 0, True)

    def length(claim: float) -> int:
        drafted: list[float] = []
        while not planner.enough(drafted, idle=True):
            drafted.append(claim)
        return len(drafted)

    assert length(0.35) == 1
    assert length(0.85) < length(0.95)


def unsure(seed: int, right: float = 0.95, tokens: int = 64) -> Replayed:
    """A draft that is nearly always right, however unsure it is: a copy of its target with fewer bits."""
    dice = random.Random(seed)
    return Replayed([(dice.random() < right, dice.uniform(0.1, 1.0)) for _ in range(tokens)])


def test_what_a_draft_s_probabilities_are_worth_is_known_after_a_few_tokens():
    calibration = Calibration()
    assert calibration(0.25) < 0.5 < 0.8 < calibration(0.95), "of a draft that nothing is known of"
    for claim in (0.35, 0.45, 0.55, 0.65, 0.75, 0.85) * 2:
        calibration.add(claim, True)
    assert calibration(0.25) > 0.75, "of which no token was seen"
    honest = Calibration()
    dice = random.Random(1)
    for _ in range(400):
        claim = dice.random()
        honest.add(claim, dice.random() < claim)
    assert all(abs(honest(claim) - claim) < 0.15 for claim in (0.25, 0.45, 0.65, 0.85))


def test_the_first_text_is_drafted_for_nearly_as_well_as_the_later_ones():
    """Drafts that are too short at first cost 45 % over 150 ms with the real model, where the formula foretold long ones."""
    planner = planner_for("ahead")
    link, times = LinkSettings(rtt_ms=150.0), Times(10.0, 31.0, 1.5, 28.0)
    taken = [
        simulate(link=link, times=times, acceptance=0.0, skill=unsure(seed), mode="ahead", tokens=64, planner=planner)
        for seed in range(8)
    ]
    alone = [
        simulate(link=link, times=times, acceptance=0.0, skill=unsure(seed), mode="ahead", tokens=64)
        for seed in range(8)
    ]  # each a first text
    later_ms = statistics.mean(run.ms_per_token for run in taken[1:])
    assert statistics.mean(run.ms_per_token for run in alone) < 1.2 * later_ms
    assert planner.expected_ms() == pytest.approx(later_ms, rel=0.15)


@pytest.mark.parametrize(("rtt_ms", "ratio", "acceptance"), GRID)
def test_the_planner_is_hardly_slower_than_the_better_of_cloud_and_speculation(rtt_ms, ratio, acceptance):
    """On the second text: of the first, some tokens go into measuring. Every text is another one."""
    link, times = LinkSettings(rtt_ms=rtt_ms), Times(VERIFY_MS * ratio, VERIFY_MS, 0.2, VERIFY_MS)
    planner = planner_for("auto")
    chosen, speculating = [], []
    for seed in range(4):
        run = simulate(link=link, times=times, acceptance=acceptance, tokens=256, seed=seed, planner=planner)
        if seed == 0:
            assert run.ms_per_token < 1.1 * max(VERIFY_MS, 1.0), "the first text"
            continue
        chosen.append(run)
        speculating.append(simulate(link=link, times=times, acceptance=acceptance, mode="ahead", tokens=256, seed=seed))
    best_ms = min(VERIFY_MS, statistics.mean(run.ms_per_token for run in speculating))
    assert statistics.mean(run.ms_per_token for run in chosen) <= 1.03 * best_ms
    assert sum(len(run.decisions) - 1 for run in chosen) <= 3, "it keeps changing its mind"


def test_the_length_it_adapts_is_nearly_as_good_as_the_best_fixed_one():
    link, times = LinkSettings(rtt_ms=60.0), Times(10.0, VERIFY_MS, 0.2, VERIFY_MS)

    def ms_per_token(length: int | None) -> float:
        return statistics.mean(
            simulate(link=link, times=times, acceptance=0.8, mode="ahead", length=length, tokens=400, seed=seed).ms_per_token
            for seed in range(3)
        )  # fmt: skip

    assert ms_per_token(None) <= 1.05 * min(ms_per_token(length) for length in range(1, 9))


def test_it_leaves_speculation_when_the_link_becomes_slow_and_says_why():
    recording = LinkRecording((0.0, 3.0, 1000.0), tuple(LinkSettings(rtt_ms=rtt) for rtt in (5.0, 400.0, 400.0)))
    run = simulate(link=recording, times=Times(10.0, VERIFY_MS), acceptance=0.7, tokens=600)
    slow = next(decision for decision in run.decisions if decision.mode == "cloud" and decision.written > 20)
    assert "ms a token, the cloud alone 40.0" in slow.reason
    assert "ms were lost with drafts" in slow.reason
    assert run.ms_per_token < 1.15 * VERIFY_MS


def test_it_comes_back_when_the_link_becomes_fast():
    recording = LinkRecording((0.0, 3.0, 1000.0), tuple(LinkSettings(rtt_ms=rtt) for rtt in (150.0, 2.0, 2.0)))
    run = simulate(link=recording, times=Times(5.0, VERIFY_MS), acceptance=0.7, tokens=1500)
    assert run.decisions[-1].mode == "speculate"


def test_without_leave_to_switch_it_always_speculates():
    assert AdaptivePlanner(switch=False).plan(0, 64).mode == "speculate"


def begun(rtt_ms: float, times: Times, acceptance: float, tokens: int = 300) -> list[tuple[int, str]]:
    """The decisions of a first text, and after how many tokens."""
    run = simulate(link=LinkSettings(rtt_ms=rtt_ms), times=times, acceptance=acceptance, tokens=tokens)
    return [(decision.written, decision.mode) for decision in run.decisions]


def test_over_a_short_way_a_fast_draft_is_used_at_once():
    assert begun(5.0, Times(2.0, VERIFY_MS), 0.9) == [(0, "speculate")]


def test_a_draft_that_shows_its_worth_beside_the_cloud_s_stream_is_used_without_a_trial():
    assert begun(80.0, Times(2.0, VERIFY_MS), 0.9) == [(0, "cloud"), (18, "speculate")]
    assert begun(240.0, Times(2.0, 120.0), 0.95)[:2] == [(0, "cloud"), (18, "speculate")]


@pytest.mark.parametrize(
    ("rtt_ms", "draft_ms", "acceptance"), [(150.0, 2.0, 0.6), (80.0, 30.0, 0.9), (600.0, 4.0, 0.9)]
)
def test_a_draft_that_would_not_pay_is_never_tried_on_short_texts(rtt_ms, draft_ms, acceptance):
    """Twelve texts, each of them streamed to its end: not a millisecond is lost against the cloud alone."""
    planner = planner_for("auto")
    for seed in range(12):
        link, times = LinkSettings(rtt_ms=rtt_ms), Times(draft_ms, 20.0)
        run = simulate(link=link, times=times, acceptance=acceptance, tokens=40, seed=seed, planner=planner)
        assert [decision.mode for decision in run.decisions] == ["cloud"]
        assert run.ms_per_token < 20.0 + draft_ms / 39  # a token may come while the device is drafting


def test_what_the_draft_is_worth_is_seen_while_the_cloud_writes():
    planner, skill = planner_for("auto"), Skill(0.9, seed=3)
    run = simulate(
        link=LinkSettings(rtt_ms=100.0), times=Times(2.0, VERIFY_MS), acceptance=0.9, tokens=24, seed=3, planner=planner
    )
    assert [decision.mode for decision in run.decisions] == ["cloud"]
    seen = planner.measured.acceptance
    assert seen.samples in (14, 22), "six drafted beside the stream, then eight at a time"
    compared = range(2, 2 + seen.samples)
    assert seen.value == pytest.approx(statistics.mean(skill(position)[0] for position in compared), abs=0.05)
    assert planner.measured.draft_ms.value == pytest.approx(2.0)


def test_nothing_is_compared_once_it_is_plain_that_speculation_cannot_pay():
    planner = planner_for("auto")
    for seed in range(8):
        link, times = LinkSettings(rtt_ms=600.0), Times(5.0, 20.0)
        simulate(link=link, times=times, acceptance=0.3, tokens=40, seed=seed, planner=planner)
    assert planner.measured.acceptance.samples < 64
    assert not planner.curious


def test_where_the_server_has_told_nothing_the_cloud_is_measured_if_speculation_is_not_clearly_faster():
    def mode(draft_ms: float) -> str:
        planner = AdaptivePlanner()
        planner.measured.rtt_ms.add(5.0)
        assert planner.plan(0, 200).mode == "speculate"
        for _ in range(8):
            planner.drafted(draft_ms)
            planner.answered(rtt_ms=5.0, computed_ms=40.0, drafted=1)
            planner.judged([0.8], 1, False)
        return planner.plan(16, 184).mode

    assert mode(25.0) == "cloud"
    assert mode(2.0) == "speculate"


def test_a_trial_waits_until_what_it_may_lose_is_a_small_share_of_the_time():
    """The formula says that drafts are a tenth slower than the cloud, and it may be wrong by as much."""
    planner = told(draft_ms=10.0, rtt_ms=60.0, verify_ms=20.0, acceptance=0.85)
    planner.measured.acceptance.doubt(16)
    assert planner.expected_ms() > 20.0 > planner.promise_ms()
    waited = 0
    while planner.plan(0, 200).mode == "cloud":
        for _ in range(50):
            planner.progressed(1, 20.0, "cloud")
        waited += 50
    # A trial may cost a round and a round trip, some 200 ms.
    assert 200 / (0.02 * 20.0) < waited < 400 / (0.005 * 20.0)


def test_what_was_lost_shrinks_hope():
    def hopes(lost: bool) -> float:
        planner = told(draft_ms=10.0, rtt_ms=50.0, verify_ms=40.0, acceptance=0.7)
        if lost:
            planner.progressed(1, 200.0, "speculate")
        return planner.hope

    believed = told(draft_ms=10.0, rtt_ms=50.0, verify_ms=40.0, acceptance=0.7).acceptance
    assert believed < hopes(lost=True) < hopes(lost=False)


def test_one_long_stall_does_not_end_what_goes_well():
    planner = told(draft_ms=5.0, rtt_ms=20.0, verify_ms=40.0, acceptance=0.9)
    for _ in range(20):
        planner.progressed(3, 60.0, "speculate")
    planner.progressed(1, 900.0, "speculate")
    assert planner.plan(100, 400).mode == "speculate"
    for _ in range(5):  # it was no stall: this is how it is now
        planner.progressed(1, 900.0, "speculate")
    assert planner.plan(106, 394).mode == "cloud"


def test_a_token_of_the_cloud_is_never_believed_to_take_longer_than_a_pass_over_a_draft():
    planner = AdaptivePlanner()
    for _ in range(3):  # while the device read the prompt on the same machine
        planner.answered(rtt_ms=None, computed_ms=90.0, drafted=0)
    for _ in range(20):
        planner.answered(rtt_ms=50.0, computed_ms=42.0, drafted=2)
        planner.judged([0.5, 0.5], 1, True)
        planner.drafted(30.0)
    assert "the cloud alone 42.0" in planner.plan(60, 200).reason


def streamed(planner: AdaptivePlanner, gaps_ms: list[float], *, beside: bool = False) -> str:
    """What the planner says after a stream of passes of 10 ms that came in such gaps."""
    for gap_ms in gaps_ms:
        if beside:
            planner.drafted(9.0)
        planner.answered(rtt_ms=None, computed_ms=10.0, drafted=0)
        planner.progressed(1, gap_ms, "cloud")
    return planner.plan(0, 64).reason


def test_tokens_that_jitter_bunches_do_not_make_the_cloud_look_fast():
    planner = told(draft_ms=10.0, rtt_ms=50.0, verify_ms=12.0, acceptance=0.8)
    assert re.search(r"the cloud alone 1[01]\.", streamed(planner, [0.0, 21.0, 1.0, 22.0] * 50))


def test_a_stall_of_the_cloud_s_stream_counts_little():
    planner = told(draft_ms=10.0, rtt_ms=50.0, verify_ms=12.0, acceptance=0.8)
    assert re.search(r"the cloud alone 1[0-2]\.", streamed(planner, [10.5] * 90 + [900.0] + [10.5] * 9))


def test_what_the_cloud_takes_while_the_device_drafts_beside_it_is_not_held_against_it():
    planner = told(draft_ms=10.0, rtt_ms=50.0, verify_ms=12.0, acceptance=0.8)
    before = streamed(planner, [10.5] * 100).partition("the cloud alone")[2]
    assert streamed(planner, [15.0] * 60, beside=True).partition("the cloud alone")[2] == before
    assert streamed(planner, [15.0] * 100).partition("the cloud alone")[2] != before


def looked_at(beside: float, texts: int = 20) -> tuple[list[float], float]:
    """Excess over the cloud alone by text, where hope remains that drafts pay, and samples of acceptance.

    The first of these texts does not flatter the draft by luck.
    """
    planner, times = planner_for("auto"), Times(12.0, 24.0, 0.5, 20.0, beside=beside)
    link = LinkSettings(rtt_ms=100.0)
    taken = [
        simulate(link=link, times=times, acceptance=0.8, tokens=40, seed=seed, planner=planner).ms_per_token
        for seed in range(200, 200 + texts)
    ]
    return [each / 20.0 - 1.0 for each in taken], planner.measured.acceptance.samples


def test_what_looking_beside_the_stream_costs_is_bounded():
    """Computing slows the cloud's passes by half here: what it costs is known after 48 tokens, then a fiftieth of the time."""
    excess, seen = looked_at(0.5)
    assert 0.02 < excess[0] < 0.12
    assert statistics.mean(excess[1:]) < 0.021
    assert seen > 40, "it does look again now and then"


def test_where_looking_costs_nothing_it_goes_on_while_it_may_change_the_decision():
    excess, seen = looked_at(0.0)
    assert max(excess) < 0.01
    assert seen > 40


def wrong_after(round_ms: float, *, accepted: int, rounds: int = 24) -> float:
    """What is believed over what the formula says, after rounds of four drafted tokens that took so long."""
    planner = told(draft_ms=5.0, rtt_ms=20.0, verify_ms=40.0, acceptance=0.9)
    for _ in range(rounds):
        planner.answered(rtt_ms=None, computed_ms=40.0, drafted=4)
        planner.progressed(accepted + 1, round_ms, "speculate")
        planner.judged([0.9] * 4, accepted, accepted < 4)
    return planner.expected_ms() / planner.token_ms(planner.best(), planner.acceptance)


def test_rounds_that_take_longer_than_they_should_are_believed_soon():
    """Devices that share a core wait for each other, which no formula knows: 10 ms a token were believed where it took 12."""
    for usual_ms, accepted in ((43.0, 4), (82.5, 0)):  # server-bound rounds in a row; each drafted anew
        slower = wrong_after(1.4 * usual_ms, accepted=accepted) / wrong_after(usual_ms, accepted=accepted)
        assert slower > 1.18


def test_unlucky_rounds_say_little_against_the_formula():
    assert wrong_after(82.5, accepted=0, rounds=8) < 1.1


def test_a_text_taken_up_where_it_is_longer_than_the_last_is_another_text():
    planner = told(draft_ms=5.0, rtt_ms=5.0, verify_ms=20.0, acceptance=0.9)
    planner.plan(0, 100)
    planner.plan(80, 20)
    planner._lost_ms = 123.0
    planner.began()
    planner.plan(300, 100)
    assert planner._lost_ms == 0.0
