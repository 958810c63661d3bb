"""Figures for operators: each is what happened, and names and buckets are those that dashboards know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import structlog
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from toy_world import VOCABULARY, continuation

from foredraft_cloud.engine import Engine, EngineOptions
from foredraft_cloud.journal import LOG_FORMATS, Journal, configure_logs
from foredraft_cloud.metrics import ServerCollector, registry_of
from foredraft_cloud.observer import Observer, PassSeen, Together
from foredraft_cloud.part import Part
from foredraft_cloud.tally import Histogram, Tally
from foredraft_cloud.toy import ToyTarget
from foredraft_shared.errors import UsageError
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import Close, Draft, Open, Resume, SamplingParams, TokenId, Verdict
from foredraft_shared.transports.base import Counters

PROMPT = (5, 6, 7)
GREEDY = SamplingParams()


class Bench:
    """An engine whose passes take 20 ms of a clock that stands still otherwise."""

    def __init__(self, options: EngineOptions | None = None, *observers: Observer) -> None:
        self.now_ns = 0
        self.tally = Tally()
        self.answers: list[Any] = []
        target = ToyTarget(vocabulary=VOCABULARY, exits=(7, 8))
        begin = target.verify

        def verify(*arguments: Any, **options: Any) -> Any:
            self.now_ns += 20_000_000
            return begin(*arguments, **options)

        target.verify = verify  # type: ignore[method-assign]
        self.engine = Engine(
            target,
            lambda peer, message: self.answers.append(message),
            options,
            clock_ns=lambda: self.now_ns,
            observer=Together((self.tally, *observers)),
        )

    def open(self, number: int = 1, prompt: Sequence[TokenId] = PROMPT, **limits: Any) -> Ledger:
        ledger = Ledger(number.to_bytes(16, "big"), prompt)
        self.engine.receive("peer", Open(ledger.session, tuple(prompt), **limits))
        return ledger

    def run(self, *messages: Any) -> None:
        for message in messages:
            self.engine.receive("peer", message)
        while self.engine.step():
            pass

    def wait(self, milliseconds: float) -> None:
        self.now_ns += int(milliseconds * 1e6)


def values(bench: Bench) -> dict[str, float]:
    """What Prometheus reads: sample name with the labels beside model_name, and value."""
    collector = ServerCollector(
        bench.tally,
        model="toy",
        dtype="none",
        health=lambda: "ready",
        cache_usage=lambda: bench.engine.cache_usage,
        statistics=bench.engine.statistics,
        wire=Counters(),
    )
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry_of(collector)).decode()):
        for sample in family.samples:
            labels = {key: value for key, value in sample.labels.items() if key != "model_name"}
            assert sample.labels["model_name"] == "toy"
            found[sample.name + (str(labels) if labels else "")] = sample.value
    return found


def test_latencies_are_those_of_a_texts_life():
    bench = Bench()
    ledger = bench.open(max_tokens=3)
    bench.wait(5)
    bench.run(ledger.request(2))  # two passes of 20 ms; the first reads the prompt as well
    tally = bench.tally
    assert (sum(tally.first_token.counts), round(tally.first_token.total, 6)) == (1, 0.025)
    assert (sum(tally.between_tokens.counts), round(tally.between_tokens.total, 6)) == (1, 0.02)
    assert (tally.unfinished, tally.finished.total()) == (1, 0)
    for verdict in [answer for answer in bench.answers if isinstance(answer, Verdict)]:
        ledger.commit(verdict)
    bench.wait(100)
    bench.run(ledger.request(1))
    assert tally.finished == {"length": 1}
    assert round(tally.text.total, 6) == 0.165
    assert (tally.unfinished, tally.sessions) == (0, 1)
    bench.run(Close(ledger.session))
    assert (tally.sessions, tally.closed_by["closed"], tally.finished["abort"]) == (0, 1, 0)


def test_tokens_of_one_commit_stand_no_time_apart():
    bench = Bench()
    ledger = bench.open()
    truth = continuation(PROMPT, GREEDY, 4)
    bench.run(ledger.propose(truth[:3]))
    assert sum(bench.tally.first_token.counts) == 1
    assert (sum(bench.tally.between_tokens.counts), bench.tally.between_tokens.total) == (3, 0.0)


def test_drafts_count_as_vllm_counts_them():
    bench = Bench()
    ledger = bench.open(hints=False)
    truth = continuation(PROMPT, GREEDY, 6)
    bench.run(ledger.propose([truth[0], truth[1], truth[2] ^ 1]))
    ledger.commit(next(answer for answer in bench.answers if isinstance(answer, Verdict)))
    bench.run(ledger.propose([]))  # an empty draft is the cloud's own decode
    found = values(bench)
    assert found["foredraft:spec_decode_num_drafts_total"] == 1
    assert found["foredraft:spec_decode_num_draft_tokens_total"] == 3
    assert found["foredraft:spec_decode_num_accepted_tokens_total"] == 2
    assert found["foredraft:generation_tokens_total"] == 4
    assert found["foredraft:tokens_total{'origin': 'target'}"] == 4


def test_tokens_taken_as_given_are_the_edges():
    bench = Bench()
    ledger = bench.open(hints=False)
    bench.run(ledger.propose([1, 2], forced=2))
    assert bench.tally.tokens == {"edge": 2, "target": 1}


def test_hints_are_counted_by_exit_and_by_what_became_of_them():
    bench = Bench(EngineOptions(hint_confidence=0.0))
    for number in range(1, 33):
        ledger = bench.open(number, (5, number))
        (right,) = continuation((5, number), GREEDY, 1)
        bench.run(ledger.propose([right ^ 1]))  # no exit is asked about a draft that will probably stand
    sent, confirmed = bench.tally.hints, bench.tally.hints_confirmed
    assert set(sent) == {7}
    assert 0 < confirmed[7] == bench.engine.statistics.hints_confirmed < sent[7] == 32


def test_a_chained_round_that_came_during_the_pass_of_the_one_before_it_is_one():
    bench = Bench()
    ledger = bench.open()
    truth = continuation(PROMPT, GREEDY, 6)
    first, second = ledger.propose(truth[:1]), ledger.propose(truth[2:4], assuming=truth[:2])
    bench.run(first)
    bench.engine.receive("peer", second, arrived_ns=bench.now_ns - 5_000_000)  # the server took it in behind the pass
    bench.run()
    assert (bench.tally.chained, bench.tally.chained_hits) == (1, 1)
    ledger.commit(next(answer for answer in bench.answers if isinstance(answer, Verdict)))
    ledger.commit(bench.answers[-1])
    bench.run(ledger.propose(()))
    assert (bench.tally.chained, bench.tally.chained_hits) == (1, 1)


def test_a_chained_round_hits_when_its_assumption_comes_true():
    bench = Bench()
    truth = continuation(PROMPT, GREEDY, 8)
    for number, drafted in ((1, truth[2]), (2, truth[2] ^ 1)):
        ledger = bench.open(number, hints=False)
        first = ledger.propose(truth[:2])
        chained = ledger.propose(truth[3:5], assuming=(*truth[:2], drafted))
        bench.run(first, chained)
    assert (bench.tally.chained, bench.tally.chained_hits) == (2, 1)


def test_a_resume_tells_whether_the_text_had_to_be_read_again():
    bench = Bench()
    ledger = bench.open()
    bench.run(ledger.request(2))
    tokens = (*PROMPT, *continuation(PROMPT, GREEDY, 2))
    bench.run(Resume(ledger.session, 2, tokens, len(PROMPT)))
    bench.run(Resume((9).to_bytes(16, "big"), 2, tokens, len(PROMPT)))
    found = values(bench)
    assert found["foredraft:session_resumes_total{'kind': 'cache'}"] == 1
    assert found["foredraft:session_resumes_total{'kind': 'prefill'}"] == 1
    assert found["foredraft:reread_tokens_total"] == len(tokens)
    assert found["foredraft:sessions_open"] == 2


def test_a_text_that_began_elsewhere_has_no_first_token_here():
    bench = Bench()
    ledger = Ledger(bytes(15) + b"\x07", (*PROMPT, *continuation(PROMPT, GREEDY, 2)), 2)
    bench.run(Resume(ledger.session, 2, tuple(ledger.tokens), len(PROMPT)), ledger.request(2))
    assert sum(bench.tally.first_token.counts) == 0
    assert sum(bench.tally.between_tokens.counts) == 1


def test_who_is_silent_too_long_is_dropped_and_who_leaves_early_aborts():
    bench = Bench(EngineOptions(max_sessions=1, idle_s=1.0, park_s=1.5))
    bench.open(1)
    bench.run()
    bench.wait(2000)
    second = bench.open(2)
    bench.run(Close(second.session))
    found = values(bench)
    assert found["foredraft:sessions_closed_total{'why': 'expired'}"] == 1
    assert found["foredraft:request_success_total{'finished_reason': 'abort'}"] == 1


def test_a_silent_session_is_parked_and_the_memory_it_holds_is_told():
    bench = Bench(EngineOptions(idle_s=1.0))
    ledger = bench.open(1)
    bench.run(ledger.request(1))
    bench.wait(1500)
    other = bench.open(2)
    bench.run(other.request(1))
    found = values(bench)
    assert (found["foredraft:sessions_open"], found["foredraft:sessions_parked"]) == (2, 1)
    assert 0 < found["foredraft:kv_cache_used_bytes"] < found["foredraft:kv_cache_limit_bytes"]
    assert found["foredraft:kv_cache_usage_perc"] == pytest.approx(
        found["foredraft:kv_cache_used_bytes"] / found["foredraft:kv_cache_limit_bytes"]
    )


def test_refusals_are_counted_by_code():
    bench = Bench(EngineOptions(max_sessions=1))
    bench.open(1)
    bench.open(2)
    bench.open(3, prompt=(VOCABULARY,))
    found = values(bench)
    assert found["foredraft:refusals_total{'code': 'overloaded'}"] == 1
    assert found["foredraft:refusals_total{'code': 'usage'}"] == 1


def test_who_gets_no_rows_is_waiting_and_the_others_run():
    bench = Bench(EngineOptions(max_rows=72, prefill_rows=8, max_draft=64))
    ledgers = [bench.open(number, hints=False) for number in (1, 2)]
    bench.run()
    for ledger in ledgers:
        bench.engine.receive("peer", ledger.propose([1] * 60))
    assert bench.engine.step()
    found = values(bench)
    assert (found["foredraft:num_requests_running"], found["foredraft:num_requests_waiting"]) == (1, 1)
    bench.run()
    assert values(bench)["foredraft:num_requests_waiting"] == 0


def test_a_device_says_what_its_link_takes():
    bench = Bench()
    ledger = bench.open()
    draft = ledger.propose([1])
    bench.run(Draft(draft.session, 1, draft.round, draft.base, draft.digest, draft.tokens, round_trip_us=42_000))
    assert values(bench)["foredraft:link_round_trip_seconds_sum"] == pytest.approx(0.042)


def test_time_in_the_model_and_beside_it_add_up_to_the_passes():
    bench = Bench()
    ledger = bench.open()
    bench.run(ledger.request(5))
    found = values(bench)
    assert found["foredraft:pass_seconds_count"] == bench.engine.statistics.passes == 5
    assert found["foredraft:pass_rows_sum"] == bench.engine.statistics.rows
    assert found["foredraft:model_seconds_total"] + found["foredraft:outside_model_seconds_total"] == pytest.approx(
        found["foredraft:pass_seconds_sum"]
    )


@pytest.mark.parametrize("sure", [0.0, 0.3])
def test_rounds_that_take_two_passes_count_once_and_their_tokens_all(sure: float):
    bench = Bench(EngineOptions(drop_confidence=sure))
    truth = continuation(PROMPT, GREEDY, 40)
    ledger = bench.open(max_tokens=40, hints=False)
    while len(ledger.written) < 40:
        bench.answers.clear()
        bench.run(ledger.propose(truth[len(ledger.written) : len(ledger.written) + 5]))
        ledger.commit(next(answer for answer in bench.answers if isinstance(answer, Verdict)))
    found = values(bench)
    assert found["foredraft:generation_tokens_total"] == 40
    assert found["foredraft:spec_decode_num_drafts_total"] == bench.engine.statistics.rounds
    assert found["foredraft:rounds_passed_twice_total"] == bench.engine.statistics.dropped_wrongly > 0
    assert found["foredraft:rows_dropped_total"] > 0
    assert sum(bench.tally.between_tokens.counts) == 39


def test_a_session_closed_in_the_middle_of_a_pass_counts_for_nothing():
    bench = Bench()
    ledger = bench.open()
    bench.engine.receive("peer", ledger.propose([1, 2]))
    session = next(iter(bench.engine._registry))
    bench.tally.passed(PassSeen(0, ended_ns=1000, shares=[Part(session, session.round_run(), verifies=True)]))
    assert (bench.tally.drafts, bench.tally.tokens.total()) == (0, 0)


def test_the_stems_that_dashboards_know_are_all_there():
    bench = Bench()
    names = {name.partition("{")[0] for name in values(bench)}
    stems = [
        "time_to_first_token_seconds_bucket",
        "inter_token_latency_seconds_bucket",
        "e2e_request_latency_seconds_bucket",
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "prompt_tokens_total",
        "generation_tokens_total",
        "request_success_total",
        "spec_decode_num_drafts_total",
        "spec_decode_num_draft_tokens_total",
        "spec_decode_num_accepted_tokens_total",
    ]
    assert {f"foredraft:{stem}" for stem in stems} <= names


def test_a_histogram_counts_a_value_for_the_bound_it_equals():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 99.0):
        histogram.observe(value)
    histogram.observe(0.0, 3)
    assert (histogram.counts, histogram.total) == ([5, 2, 1], 104.0)


def test_the_journal_names_session_and_device_once_and_never_a_token():
    with structlog.testing.capture_logs() as lines:
        bench = Bench(EngineOptions(max_sessions=1), Journal())
        bench.open(1, (41, 42, 43))
        for _ in range(3):
            bench.open(2)
        bench.engine.forget_device("")
    refusals = [line for line in lines if line["event"] == "refused"]
    assert [(line["code"], line["session"]) for line in refusals] == [("overloaded", "00000000")]
    assert [line["why"] for line in lines if line["event"] == "session closed"] == ["revoked"]
    assert not any("42" in str(value) for line in lines for value in line.values())


@pytest.mark.parametrize("form", LOG_FORMATS)
def test_a_log_that_goes_into_a_file_has_no_colours(form: str, capsys: pytest.CaptureFixture[str]):
    try:
        configure_logs(form, "info")
        structlog.get_logger().info("draining", sessions=2)
    finally:
        structlog.reset_defaults()
    line = capsys.readouterr().err
    assert "draining" in line
    assert "\x1b" not in line


@pytest.mark.parametrize("wrong", [("yaml", "info"), ("json", "loud")])
def test_a_log_format_or_level_that_does_not_exist_is_refused(wrong: tuple[str, str]):
    with pytest.raises(UsageError, match="choose"):
        configure_logs(*wrong)
