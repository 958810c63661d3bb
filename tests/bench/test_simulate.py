"""The simulator against what can be computed by hand."""

from __future__ import annotations

import statistics

import pytest

from foredraft_bench.simulate import planner_for, simulate, waiting_ms_per_token
from foredraft_bench.virtual_models import Exit, Skill, Times
from foredraft_edge.options import LoopOptions
from foredraft_shared.transports.recording import LinkRecording
from foredraft_shared.transports.relay import LinkSettings

TIMES = Times(draft_ms=10.0, verify_ms=40.0, row_ms=0.5)


def test_the_cloud_alone_pays_the_round_trip_once():
    run = simulate(link=LinkSettings(rtt_ms=60.0), times=TIMES, acceptance=0.8, mode="cloud", tokens=50)
    assert run.tokens == 50
    assert run.ttft_ms == pytest.approx(60.0 + 40.0)
    assert run.gaps_ms == pytest.approx([40.0] * 49)
    assert run.passes == 50


def test_reading_the_prompt_comes_before_the_first_token_only():
    times = Times(draft_ms=10.0, verify_ms=40.0, prefill_ms=300.0)
    run = simulate(link=LinkSettings(rtt_ms=60.0), times=times, acceptance=0.8, mode="cloud", tokens=10)
    assert run.ttft_ms == pytest.approx(60.0 + 340.0)
    assert run.ms_per_token == pytest.approx(40.0)


@pytest.mark.parametrize(("rtt_ms", "acceptance", "length"), [(5.0, 0.8, 4), (60.0, 0.6, 2), (200.0, 0.9, 8)])
def test_waiting_is_the_closed_formula(rtt_ms, acceptance, length):
    # 10,000 tokens: the standard error of the mean is below 1 %.
    runs = [
        simulate(
            link=LinkSettings(rtt_ms=rtt_ms), times=TIMES, acceptance=acceptance, mode="waiting", length=length,
            tokens=2000, seed=seed,
        )
        for seed in range(5)
    ]  # fmt: skip
    expected = waiting_ms_per_token(rtt_ms, TIMES, acceptance, length)
    assert statistics.mean(run.ms_per_token for run in runs) == pytest.approx(expected, rel=0.02)


def test_with_a_draft_that_is_always_right_each_mode_is_exact():
    def ms_per_token(mode: str, rtt_ms: float = 20.0) -> float:
        link, times = LinkSettings(rtt_ms=rtt_ms), Times(draft_ms=4.0, verify_ms=40.0)
        return simulate(link=link, times=times, acceptance=1.0, mode=mode, length=4, tokens=1000).ms_per_token

    assert ms_per_token("waiting") == pytest.approx((16 + 20 + 40) / 5, rel=0.01)
    assert ms_per_token("unchained") == pytest.approx((20 + 40) / 5, rel=0.01)
    assert ms_per_token("ahead") == pytest.approx(40 / 5, rel=0.01)
    # With three rounds in flight a long way is the bottleneck: each round comes back after rtt + verify.
    assert ms_per_token("ahead", rtt_ms=200.0) == pytest.approx((200 + 40) / 3 / 5, rel=0.02)


def test_a_draft_that_is_always_wrong_leaves_one_token_a_round():
    run = simulate(link=LinkSettings(rtt_ms=20.0), times=TIMES, acceptance=0.0, mode="waiting", length=3, tokens=100)
    assert run.accepted_per_round == 0.0
    assert run.ms_per_token == pytest.approx(20 + 30 + 41.5, rel=0.01)


def test_a_run_is_the_same_every_time():
    def run(seed: int) -> tuple[float, ...]:
        link = LinkSettings(rtt_ms=50.0, jitter_ms=15.0, rate_mbps=12.0, stall_every_s=1.0, stall_ms=200.0)
        times = Times(draft_ms=10.0, verify_ms=40.0, spread=0.2)
        return simulate(link=link, times=times, acceptance=0.8, seed=seed, tokens=200, concentration=4.0).arrived_ms

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_every_mode_meets_the_same_text():
    skill, again = Skill(0.7, seed=3), Skill(0.7, seed=3)
    assert [skill(position) for position in range(50)] == [again(position) for position in reversed(range(50))][::-1]


def test_acceptance_by_position_is_counted_from_the_last_error():
    skill = Skill((1.0, 1.0, 0.0))
    assert [skill(position)[0] for position in range(6)] == [True, True, False, True, True, False]


def test_a_draft_that_knows_what_it_knows_is_right_as_often_as_it_claims():
    skill = Skill(0.7, concentration=2.0)
    drawn = [skill(position) for position in range(4000)]
    sure = [right for right, claim in drawn if claim > 0.9]
    assert statistics.mean(sure) > 0.93
    assert statistics.mean(right for right, _ in drawn) == pytest.approx(0.7, abs=0.03)


def test_jitter_keeps_the_order_and_stalls_hold_everything_up():
    stalls = LinkSettings(rtt_ms=10.0, stall_every_s=0.5, stall_ms=200.0)
    run = simulate(link=stalls, times=TIMES, acceptance=0.8, mode="cloud", tokens=200)
    assert max(run.gaps_ms) > 100.0
    assert sorted(run.arrived_ms) == list(run.arrived_ms)
    # Held up, not slowed down: the stream catches up.
    assert run.ms_per_token == pytest.approx(40.0, rel=0.05)


def test_a_recorded_link_changes_in_the_middle():
    recording = LinkRecording((0.0, 1.0), (LinkSettings(rtt_ms=10.0), LinkSettings(rtt_ms=100.0)))
    run = simulate(link=recording, times=TIMES, acceptance=0.0, mode="waiting", length=1, tokens=40)
    # A round takes 10 + 40.5 ms and the round trip at its time.
    assert run.gaps_ms[5] == pytest.approx(10 + 10 + 40.5)
    assert max(run.gaps_ms) == pytest.approx(100 + 10 + 40.5)


def test_no_two_texts_share_their_stalls() -> None:
    def run(seed: int, link_seed: int = 0) -> tuple[float, ...]:
        stalls = LinkSettings(rtt_ms=10.0, stall_every_s=0.5, stall_ms=200.0, seed=link_seed)
        return simulate(
            link=stalls, times=TIMES, acceptance=0.8, mode="cloud", tokens=100, seed=seed
        ).arrived_ms  # fmt: skip

    assert len({run(seed) for seed in range(5)}) == 5
    assert run(3, link_seed=7) == run(3), "a text has one seed"


def test_texts_begin_all_over_a_recording() -> None:
    times = tuple(float(second) for second in range(10))
    recording = LinkRecording(times, tuple(LinkSettings(rtt_ms=10.0 + 20.0 * second) for second in range(10)))

    def round_trip_ms(seed: int) -> float:
        run = simulate(
            link=recording, times=TIMES, acceptance=0.0, mode="waiting", length=1, tokens=4, seed=seed
        )  # fmt: skip
        return run.gaps_ms[0] - 50.5

    waits = [round_trip_ms(seed) for seed in range(20)]
    assert waits[0] == pytest.approx(10.0)
    assert statistics.mean(waits) == pytest.approx(recording.mean_rtt_ms, rel=0.1)


def test_a_hint_that_is_right_saves_time_when_the_pass_is_long():
    def ms_per_token(hints: bool) -> float:
        times = Times(draft_ms=10.0, verify_ms=200.0, exits=(Exit(at=0.5, accuracy=0.99),))
        run = simulate(
            link=LinkSettings(rtt_ms=5.0), times=times, acceptance=0.6, length=4, mode="unchained", tokens=300,
            options=LoopOptions(window=1, hints=hints),
        )  # fmt: skip
        assert bool(run.statistics.hints) is hints
        return run.ms_per_token

    assert ms_per_token(hints=True) < 0.95 * ms_per_token(hints=False)


def test_a_planner_serves_one_text_after_another():
    planner = planner_for("auto")
    runs = [
        simulate(link=LinkSettings(rtt_ms=90.0), times=TIMES, acceptance=0.9, tokens=64, seed=seed, planner=planner)
        for seed in range(2)
    ]
    assert runs[0].decisions[0].mode == "cloud"
    assert [decision.mode for decision in runs[1].decisions] == ["speculate"], "it has forgotten the first text"


def test_a_call_a_token_pays_the_round_trip_each_time():
    run = simulate(link=LinkSettings(rtt_ms=60.0), times=TIMES, acceptance=0.8, mode="remote", tokens=50)
    assert run.gaps_ms == pytest.approx([100.0] * 49)


def test_an_exit_that_is_seldom_sure_hints_seldom():
    def hints(coverage: float) -> int:
        times = Times(draft_ms=10.0, verify_ms=200.0, exits=(Exit(at=0.5, accuracy=0.99, coverage=coverage),))
        run = simulate(link=LinkSettings(rtt_ms=5.0), times=times, acceptance=0.6, length=1, mode="ahead", tokens=300)
        return run.statistics.hints

    assert hints(0.0) == 0
    assert 0 < hints(0.5) < 0.75 * hints(1.0)
