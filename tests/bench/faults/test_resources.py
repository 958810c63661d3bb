"""Whether memory grows, told from samples."""

from __future__ import annotations

import os
import random

import pytest

from foredraft_bench.faults.resources import Sample, growth, look


def samples(minutes: float, *, slope: float = 0.0, noise: int = 0) -> list[Sample]:
    """One a second; memory of 100,000 KiB that grows by ``slope`` KiB a minute."""
    dice = random.Random(0)
    return [
        Sample(second, 100_000 + int(slope * second / 60) + dice.randint(-noise, noise), 10, 5)
        for second in range(int(minutes * 60))
    ]


def test_what_does_not_grow_is_flat() -> None:
    measured = growth(samples(10, noise=500))
    assert abs(measured.rss_slope_kib_per_minute) < 20
    assert measured.is_flat(0.01, 0)


def test_a_slow_leak_is_seen_through_noise() -> None:
    measured = growth(samples(10, slope=500, noise=500))
    assert measured.rss_slope_kib_per_minute == pytest.approx(500, rel=0.1)
    assert measured.minutes == pytest.approx(7.5, abs=0.1)
    assert not measured.is_flat(0.02, 2048)
    assert measured.is_flat(0.05, 0)


def test_what_fills_up_at_the_beginning_is_no_leak() -> None:
    filling = [Sample(second, min(100_000, 50_000 + 500 * second), 10, 5) for second in range(600)]
    measured = growth(filling)
    assert measured.rss_slope_kib_per_minute == 0.0
    assert measured.rss_start_kib == measured.rss_end_kib == 100_000


def test_one_moment_of_much_memory_is_no_leak() -> None:
    peaked = [Sample(second, 900_000 if second == 590 else 100_000, 10, 5) for second in range(600)]
    assert growth(peaked).rss_slope_kib_per_minute == 0.0


def test_a_run_too_short_tells_nothing() -> None:
    with pytest.raises(ValueError, match="run longer"):
        growth(samples(3 / 60))


def test_a_process_can_be_looked_at() -> None:
    seen = look(os.getpid())
    assert seen.rss_kib > 1000
    assert seen.descriptors >= 3
    assert seen.threads >= 1
    with open(os.devnull):
        assert look(os.getpid()).descriptors == seen.descriptors + 1
