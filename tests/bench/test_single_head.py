"""SpecEdge's head: how far it drafts, when it is of use, and that it changes no token."""

from __future__ import annotations

import statistics

import pytest
import toy_world

from foredraft_bench.simulate import simulate
from foredraft_bench.single_head import SINGLE_HEAD, SingleHeadPlanner
from foredraft_bench.virtual_models import Times
from foredraft_shared.messages import SamplingParams
from foredraft_shared.transports.relay import LinkSettings

SLOW_LINK = LinkSettings(rtt_ms=100.0)
TIMES = Times(draft_ms=10.0, verify_ms=40.0)


def ms_per_token(mode: str, acceptance: float, *, seeds: int = 1, link: LinkSettings = SLOW_LINK) -> float:
    return statistics.mean(
        simulate(
            link=link, times=TIMES, acceptance=acceptance, mode=mode, length=4, tokens=1000, seed=seed
        ).ms_per_token
        for seed in range(seeds)
    )


def test_while_it_waits_it_drafts_the_guess_and_its_head_only():
    run = simulate(link=SLOW_LINK, times=TIMES, acceptance=1.0, mode="single-head", tokens=300)
    # 140 ms would be enough for 14 tokens.
    assert {record.ready for record in run.records[1:-2] if record.drafted} == {3}
    assert {record.drafted for record in run.records[2:-2]} == {4}
    assert not any(record.chained for record in run.records)


def test_a_head_that_was_right_saves_the_drafting_of_its_tokens():
    # Of a draft of four, three are there: a round takes one drafted token, the way and a pass, and commits five.
    assert ms_per_token("single-head", 1.0) == pytest.approx((10 + 100 + 40) / 5, rel=0.01)
    assert ms_per_token("waiting", 1.0) == pytest.approx((40 + 100 + 40) / 5, rel=0.01)


def test_a_head_that_is_always_wrong_saves_nothing():
    # Three tokens and the guess are done long before the verdict, so it is not late either.
    assert ms_per_token("single-head", 0.0) == pytest.approx(40 + 100 + 40, rel=0.01)


@pytest.mark.parametrize("acceptance", [0.6, 0.8, 0.95])
def test_it_is_between_waiting_and_sending_ahead(acceptance):
    waiting, head, ahead = (ms_per_token(mode, acceptance, seeds=3) for mode in ("waiting", "single-head", "ahead"))
    assert ahead < head < waiting


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_it_writes_what_the_target_alone_would_write(temperature):
    prompt, params = [3, 1, 4, 1, 5], SamplingParams(temperature=temperature, seed=7)
    world = toy_world.World(pass_s=0.04)
    writer = world.writer(
        prompt, params, toy_world.ToyDrafter(skill=0.8), SingleHeadPlanner(4, 3), max_tokens=60, options=SINGLE_HEAD
    )
    assert writer.write() == toy_world.continuation(prompt, params, 60)
