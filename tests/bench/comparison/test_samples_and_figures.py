"""What is kept of an answer, and what samples add up to: by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foredraft_bench.comparison.figures import Spread, add_up, speed_up
from foredraft_bench.comparison.samples import Decision, Sample, boil_down, typical_rounds
from foredraft_bench.metrics import Answer
from foredraft_bench.simulate import simulate
from foredraft_bench.virtual_models import Times
from foredraft_shared.traces import HintRecord, RoundRecord
from foredraft_shared.transports.relay import LinkSettings


def round_record(number: int, drafted: int, accepted: int, **more: object) -> RoundRecord:
    record = RoundRecord(
        "s", number, drafted=drafted, accepted=accepted, committed=accepted + 1, decision="speculate",
        sent_at_us=number * 100_000, verdict_at_us=number * 100_000 + 50_000, committed_at_us=number * 100_000 + 50_000,
        cloud_queued_us=0, cloud_computed_us=20_000,
    )  # fmt: skip
    for name, value in more.items():
        setattr(record, name, value)
    return record


def answer(records: list[RoundRecord], tokens: int) -> Answer:
    return Answer(tuple(range(tokens)), tuple(10.0 * index for index in range(tokens)), records=tuple(records))


def sample(run: int, step_ms: float, tokens: int = 5, first_ms: float = 100.0, **more: object) -> Sample:
    arrived = tuple(first_ms + step_ms * index for index in range(tokens))
    return Sample(0, run, 0, tuple(range(tokens)), arrived, **more)  # type: ignore[arg-type]


def test_a_place_in_the_draft_is_judged_only_if_all_before_it_were_accepted() -> None:
    kept = boil_down(answer([round_record(1, 3, 3), round_record(2, 3, 1), round_record(3, 4, 2)], 9), prompt=0, run=0)
    # The first: three accepted. The second: one accepted, one rejected. The third: the text ends after two.
    assert kept.tried_at == (3, 3, 1)
    assert kept.accepted_at == (3, 2, 1)
    assert kept.drafted == 10


def test_hints_are_judged_by_their_verdict() -> None:
    right = HintRecord(at_us=1, exit_layer=20, accepted=1, token=7, confidence=0.9)
    wrong = HintRecord(at_us=1, exit_layer=10, accepted=0, token=7, confidence=0.4)
    kept = boil_down(answer([round_record(1, 1, 1, token=7, hints=[wrong, right])], 2), prompt=0, run=0)
    assert [(hint.exit_layer, hint.right) for hint in kept.hints] == [(10, False), (20, True)]


def test_guesses_and_passes_of_rounds_that_came_to_nothing_do_not_count() -> None:
    nothing = RoundRecord("s", 3, drafted=2, chained=True, sent_at_us=1)
    kept = boil_down(
        answer([round_record(1, 1, 1, guess_hit=True), round_record(2, 1, 0, guess_hit=False), nothing], 3),
        prompt=0,
        run=0,
    )
    assert (kept.guesses, kept.guess_hits, kept.cloud_computed_ms) == (2, 1, 40.0)


def test_a_decision_is_kept_when_the_mode_changes() -> None:
    records = [
        round_record(1, 0, 0, decision="cloud", reason="measuring", kind="cloud"),
        round_record(2, 2, 1, reason="it pays"),
        round_record(3, 2, 2, reason="it still pays"),
    ]
    kept = boil_down(answer(records, 6), prompt=0, run=0)
    assert kept.decisions == (Decision(0, "cloud", "measuring"), Decision(1, "speculate", "it pays"))
    assert kept.speculated == 5


def test_runs_are_told_apart_and_their_median_is_taken() -> None:
    figures = add_up([sample(0, 10.0), sample(0, 20.0), sample(1, 30.0), sample(2, 12.0)])
    assert figures.ms_per_token == Spread(15.0, 12.0, 30.0)  # the first run: 120 ms over 8 gaps
    assert figures.ttft_ms == Spread(100.0, 100.0, 100.0)
    assert figures.gap_max_ms == 30.0
    assert (figures.answers, figures.tokens) == (4, 20)


def test_a_speed_up_is_taken_within_a_run() -> None:
    # The machine was half as fast in the second run: that is not the mode's doing.
    found = speed_up([sample(0, 10.0), sample(1, 20.0)], [sample(0, 20.0), sample(1, 40.0)])
    assert found == Spread(2.0, 2.0, 2.0)
    assert speed_up([sample(5, 10.0)], [sample(0, 20.0)]) is None


def test_a_speed_up_sets_no_text_against_another() -> None:
    baseline = [replace(sample(0, 10.0), prompt=0), replace(sample(0, 40.0), prompt=1)]
    assert speed_up([replace(sample(0, 5.0), prompt=0)], baseline) == Spread(2.0, 2.0, 2.0)
    assert speed_up([*baseline, replace(sample(0, 99.0), prompt=2)], baseline) == Spread(1.0, 1.0, 1.0)


def test_costs_are_shared_by_the_tokens() -> None:
    figures = add_up(
        [sample(0, 10.0, cloud_passes=2, cloud_computed_ms=50.0, bytes_up=30, bytes_down=20, drafting_ms=40.0,
                hidden_drafting_ms=10.0, guesses=4, guess_hits=3, draft_rounds=2, accepted=3, drafted=4, joules=2.5)]
    )  # fmt: skip
    assert (figures.cloud_passes_per_token, figures.cloud_ms_per_token) == (0.4, 10.0)
    assert (figures.bytes_up_per_token, figures.bytes_down_per_token) == (6.0, 4.0)
    assert (figures.hidden_drafting, figures.guess_hit_rate) == (0.25, 0.75)
    assert (figures.accepted_per_round, figures.drafted_per_round) == (1.5, 2.0)
    assert figures.joules_per_token == 0.5


def test_energy_is_told_only_if_every_answer_was_metered() -> None:
    assert add_up([sample(0, 10.0, joules=1.0), sample(1, 10.0)]).joules_per_token is None


def test_nothing_gives_no_figures() -> None:
    figures = add_up([])
    assert (figures.ms_per_token, figures.fluidity_index, figures.limit, figures.exits) == (None, None, None, ())


def test_the_parts_of_a_token_are_the_mean_of_all_answers() -> None:
    text = simulate(link=LinkSettings(rtt_ms=20), times=Times(5.0, 25.0), acceptance=0.8, mode="ahead", tokens=60)
    given = Answer(tuple(range(text.tokens)), text.arrived_ms, records=text.records)
    kept = boil_down(given, prompt=0, run=0)
    parts = add_up([kept, kept]).limit
    assert parts is not None
    assert parts.total_ms == pytest.approx(text.ms_per_token, rel=1e-3)


def test_typical_rounds_follow_each_other() -> None:
    text = simulate(link=LinkSettings(rtt_ms=20), times=Times(5.0, 25.0), acceptance=0.8, mode="waiting", tokens=60)
    shown = typical_rounds(Answer(tuple(range(text.tokens)), text.arrived_ms, records=text.records))
    assert len(shown) == 3
    assert shown[0].round < shown[1].round < shown[2].round
    for each in shown:
        assert each.sent_ms <= each.queued_ms <= each.computing_ms <= each.answered_ms <= each.verdict_ms
    assert min(each.draft_began_ms for each in shown if each.draft_began_ms is not None) == 0.0


def test_a_text_with_hardly_a_round_has_no_typical_one() -> None:
    assert typical_rounds(answer([round_record(1, 1, 1), round_record(2, 1, 1)], 4)) == ()
