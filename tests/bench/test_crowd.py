"""Many devices at one cloud, against the simulator for one and against what can be computed by hand."""

from __future__ import annotations

import statistics

import pytest

from foredraft_bench.crowd import Batching, crowd
from foredraft_bench.simulate import simulate
from foredraft_bench.virtual_models import Times
from foredraft_shared.transports.relay import LinkSettings

ALONE = Batching(base_ms=40.0)


@pytest.mark.parametrize(
    ("rtt_ms", "draft_ms", "acceptance", "length"),
    [(5.0, 10.0, 0.6, 2), (20.0, 8.0, 0.8, 4), (60.0, 5.0, 0.7, 4), (200.0, 4.0, 0.8, 8), (1.0, 30.0, 0.9, 2)],
)
def test_one_device_is_as_fast_as_in_the_simulator(rtt_ms, draft_ms, acceptance, length):
    model = statistics.mean(
        crowd(
            1, rtt_ms=rtt_ms, draft_ms=draft_ms, batching=ALONE, acceptance=acceptance, length=length, tokens=600,
            seed=seed,
        ).ms_per_token
        for seed in range(24)
    )  # fmt: skip
    simulated = statistics.mean(
        simulate(
            link=LinkSettings(rtt_ms=rtt_ms), times=Times(draft_ms, 40.0), acceptance=acceptance, mode="ahead",
            length=length, tokens=600, seed=seed,
        ).ms_per_token
        for seed in range(4)
    )  # fmt: skip
    assert model == pytest.approx(simulated, rel=0.1)


def test_the_cloud_alone_streams_to_all_in_step():
    found = crowd(100, rtt_ms=300.0, draft_ms=1.0, batching=ALONE, acceptance=0.9, length=0)
    assert found.ms_per_token == pytest.approx(40.0, rel=0.02)


def test_where_computing_is_the_bottleneck_everybody_pays_for_every_row():
    dear = Batching(base_ms=40.0, free_rows=10, row_ms=1.0)
    found = crowd(110, rtt_ms=0.0, draft_ms=1.0, batching=dear, acceptance=0.9, length=0, tokens=400)
    assert found.ms_per_token == pytest.approx(140.0, rel=0.03)
    assert found.rows_per_pass == pytest.approx(110, rel=0.05)


def test_what_does_not_fit_into_a_pass_waits_for_the_next():
    narrow = Batching(base_ms=40.0, most_rows=50)
    found = crowd(100, rtt_ms=0.0, draft_ms=1.0, batching=narrow, acceptance=0.9, length=0)
    assert found.ms_per_token == pytest.approx(80.0, rel=0.03)


def test_every_token_is_written_and_paid_for():
    found = crowd(1, rtt_ms=10.0, draft_ms=1.0, batching=ALONE, acceptance=0.0, length=3)
    assert found.cloud_ms_per_token == pytest.approx(40.0, rel=0.01)
