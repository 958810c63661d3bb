"""The parts of a text's time: worked out by hand, and over whole simulated texts."""

from __future__ import annotations

import dataclasses

import pytest

from foredraft_bench.comparison.limit import Parts, divide
from foredraft_bench.metrics import Answer
from foredraft_bench.simulate import simulate
from foredraft_bench.virtual_models import Times
from foredraft_shared.traces import RoundRecord
from foredraft_shared.transports.profiles import PROFILES
from foredraft_shared.transports.relay import LinkSettings

# Asked for at 0; 10 ms up, 10 ms of pass, 10 ms down.
FIRST = RoundRecord(
    "s", 1, sent_at_us=0, cloud_queued_us=0, cloud_computed_us=10_000, verdict_at_us=30_000, committed_at_us=30_100,
    committed=1, accepted=0,
)  # fmt: skip
# Drafted for 12 ms, 0.2 ms after the verdict (taken for the reading of the prompt: it is the first draft);
# 10 ms up, 5 ms in the queue, 15 ms of pass, 10 ms down.
WAITED = RoundRecord(
    "s", 2, drafted=2, accepted=2, committed=3, draft_began_at_us=30_200, draft_ended_at_us=42_200, drafting_us=12_000,
    sent_at_us=42_300, cloud_queued_us=5_000, cloud_computed_us=15_000, verdict_at_us=82_300, committed_at_us=82_400,
)  # fmt: skip


def answer(*rounds: RoundRecord, instants: tuple[float, ...]) -> Answer:
    return Answer(tuple(range(len(instants))), instants, records=rounds)


def test_a_round_that_waits() -> None:
    parts = divide(answer(FIRST, WAITED, instants=(30.2, 82.5, 82.5, 82.5)))
    assert parts is not None
    assert (parts.limit_ms, parts.queue_ms, parts.drafting_ms, parts.network_ms) == (15.0, 5.0, 12.2, 20.0)
    assert parts.overhead_ms == pytest.approx(0.1)
    assert parts.total_ms == pytest.approx(82.5 - 30.2)


def test_a_chained_round_that_is_there_in_time_waits_for_nothing_but_the_pass_before_it() -> None:
    # 5 ms up, so that it is there at 65; the pass before it ends at 72.3, and its own begins 5 ms later.
    chained = RoundRecord(
        "s", 3, drafted=1, accepted=1, committed=2, chained=True, draft_began_at_us=44_000, draft_ended_at_us=59_000,
        drafting_us=15_000, sent_at_us=60_000, cloud_queued_us=12_300, cloud_computed_us=15_000, verdict_at_us=97_300,
        committed_at_us=97_400,
    )  # fmt: skip
    parts = divide(answer(FIRST, WAITED, chained, instants=(30.2, 82.5, 82.5, 82.5, 97.5, 97.5)))
    assert parts is not None
    # To the round before: 15 of pass and 5 of queue. Its way down was 5 ms shorter than the first one's.
    assert (parts.limit_ms, parts.queue_ms, parts.drafting_ms, parts.network_ms) == (30.0, 10.0, 12.2, 15.0)
    assert parts.total_ms == pytest.approx(97.5 - 30.2)


def test_a_chained_round_that_leaves_late_waited_for_drafting() -> None:
    # The cloud has nothing to do from 72.3 on; drafting ends at 80, before the verdict is there at 82.3.
    late = RoundRecord(
        "s", 3, drafted=1, accepted=1, committed=2, chained=True, draft_began_at_us=60_000, draft_ended_at_us=80_000,
        drafting_us=20_000, sent_at_us=80_000, cloud_queued_us=0, cloud_computed_us=15_000, verdict_at_us=115_000,
        committed_at_us=115_000,
    )  # fmt: skip
    parts = divide(answer(FIRST, WAITED, late, instants=(30.0, 82.5, 82.5, 82.5, 115.0, 115.0)))
    assert parts is not None
    assert parts.drafting_ms == pytest.approx(12.2 + 7.7)
    assert parts.network_ms == 20.0 + 10.0  # up and, at the end, a way down as long as the first one's


def test_what_the_draft_model_reads_before_its_first_draft_is_drafting() -> None:
    # As above, but the draft model reads the prompt for 100 ms before it begins to draft.
    later = dataclasses.replace(
        WAITED, draft_began_at_us=130_200, draft_ended_at_us=142_200, sent_at_us=142_300, verdict_at_us=182_300,
        committed_at_us=182_400,
    )  # fmt: skip
    parts = divide(answer(FIRST, later, instants=(30.2, 182.5, 182.5, 182.5)))
    assert parts is not None
    assert (parts.limit_ms, parts.drafting_ms, parts.network_ms) == (15.0, 112.2, 20.0)
    # In a later round nothing is read: what lies before the draft is the loop's.
    third = dataclasses.replace(
        WAITED, round=3, draft_began_at_us=192_400, draft_ended_at_us=204_400, sent_at_us=204_500, verdict_at_us=244_500,
        committed_at_us=244_600,
    )  # fmt: skip
    both = divide(answer(FIRST, later, third, instants=(30.2, 182.5, 182.5, 182.5, 244.7, 244.7, 244.7)))
    assert both is not None
    assert both.drafting_ms == pytest.approx(112.2 + 12.0)
    assert both.overhead_ms == pytest.approx(0.1 + 10.2)


def test_what_cannot_be_divided() -> None:
    assert divide(answer(FIRST, instants=(30.2,))) is None
    assert divide(answer(instants=(5.0, 10.0))) is None


def test_parts_add_and_are_shared_out() -> None:
    one = Parts(1.0, 2.0, 3.0, 4.0, 5.0)
    assert (one + one).per(2) == one
    assert one.total_ms == 15.0


@pytest.mark.parametrize("mode", ["cloud", "waiting", "unchained", "ahead", "auto"])
@pytest.mark.parametrize("network", ["lan", "wifi", "lte", "intercontinental"])
def test_in_a_world_without_overhead_every_millisecond_has_another_cause(mode: str, network: str) -> None:
    text = simulate(
        link=PROFILES[network], times=Times(8.0, 25.0, 0.5, 25.0, spread=0.2), acceptance=0.85, mode=mode, tokens=120
    )
    parts = divide(Answer(tuple(range(text.tokens)), text.arrived_ms, records=text.records))
    assert parts is not None
    assert parts.total_ms == pytest.approx(text.arrived_ms[-1] - text.arrived_ms[0])
    assert parts.limit_ms > 0
    assert abs(parts.overhead_ms) < 0.01 * parts.total_ms
    assert parts.drafting_ms >= 0
    assert parts.network_ms > -0.02 * parts.total_ms


def test_over_a_link_without_delay_nobody_waits_for_it() -> None:
    text = simulate(link=LinkSettings(), times=Times(1.0, 25.0), acceptance=0.9, mode="waiting", tokens=80)
    parts = divide(Answer(tuple(range(text.tokens)), text.arrived_ms, records=text.records))
    assert parts is not None
    assert abs(parts.network_ms) < 1.0
