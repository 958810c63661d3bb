"""Traces: what is written is read back, whatever happens to the writer; and it adds up."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foredraft_shared.errors import UsageError
from foredraft_shared.traces import HintRecord, RoundRecord, TraceWriter, read_trace
from foredraft_shared.traces.chrome import chrome_trace
from foredraft_shared.traces.network import network_of
from foredraft_shared.traces.summary import summarise
from foredraft_shared.traces.timeline import attribute, flights

SESSION = "ab" * 16


def two_rounds() -> list[RoundRecord]:
    """A first round drafted while nobody else worked, and a second drafted in its shadow, on a right guess."""
    first = RoundRecord(
        SESSION,
        1,
        base=10,
        drafted=4,
        accepted=4,
        token=7,
        committed=5,
        decision="speculate",
        reason="4 tokens at 20 ms",
        draft_began_at_us=0,
        draft_ended_at_us=20_000,
        sent_at_us=20_100,
        verdict_at_us=70_100,
        committed_at_us=70_200,
        drafting_us=20_000,
        cloud_queued_us=10_000,
        cloud_computed_us=20_000,
        hints=[HintRecord(50_000, 10, 4, 7, 0.9), HintRecord(55_000, 20, 3, 2, 0.5)],
        overhead_us=150,
        bytes_up=40,
        bytes_down=30,
    )
    second = RoundRecord(
        SESSION,
        2,
        base=15,
        drafted=4,
        accepted=1,
        token=9,
        committed=2,
        guess_hit=True,
        ready=4,
        draft_began_at_us=21_000,
        draft_ended_at_us=41_000,
        sent_at_us=70_300,
        verdict_at_us=110_300,
        committed_at_us=110_400,
        drafting_us=20_000,
        cloud_queued_us=0,
        cloud_computed_us=20_000,
        overhead_us=100,
        bytes_up=38,
        bytes_down=30,
    )
    return [first, second]


def write(path: Path, rounds: list[RoundRecord]) -> Path:
    with TraceWriter(path, labels={"model": "smål"}) as trace:
        for record in rounds:
            trace.write(record)
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path / "trace.jsonl", two_rounds()))
    assert trace.rounds == two_rounds()
    assert trace.header.labels == {"model": "smål"}
    assert not trace.torn


def test_a_cut_at_any_byte_loses_the_last_line_only(tmp_path: Path) -> None:
    path = write(tmp_path / "trace.jsonl", two_rounds())
    whole = path.read_bytes()
    before_last = whole.rindex(b"\n", 0, -1) + 1
    for length in range(before_last, len(whole)):
        path.write_bytes(whole[:length])
        trace = read_trace(path)
        assert trace.rounds == two_rounds()[:1]
        assert trace.torn == (length > before_last)


def test_a_killed_writer_loses_nothing_it_had_written(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    program = (
        "import os, signal, sys; from foredraft_shared.traces import *; trace = TraceWriter(sys.argv[1])\n"
        "for number in range(100): trace.write(RoundRecord('s', number))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert [record.round for record in read_trace(path).rounds] == list(range(100))


def test_a_full_disk_ends_the_trace_and_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with TraceWriter("/dev/full") as trace:
        assert trace.failed
        trace.write(two_rounds()[0])
    assert len(caplog.records) == 1


def test_numbers_of_array_libraries_are_numbers(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    record = RoundRecord(SESSION, 1, token=numpy.int64(5), hints=[HintRecord(1, 2, 3, 4, numpy.float32(0.5))])
    (back,) = read_trace(write(tmp_path / "trace.jsonl", [record])).rounds
    assert (back.token, back.hints[0].confidence) == (5, 0.5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has not one whole line"),
        (b"hello\n", "its first line is not JSON"),
        (b"{}\n", "names no format"),
        (b'{"format": 99, "foredraft": "9.0"}\n', "written by foredraft 9.0"),
        (b'{"format": 1}\n[]\n', "line 2"),
        (b'{"format": 1}\n{"session": "a"}\n', "line 2"),
        (b'{"format": 1}\n{"session": "a", "round": 1, "hints": [{}]}\n', "line 2"),
        (b'{"format": 1}\n{"session": "a", "round": 1, "hints": [3]}\n', "line 2"),
        (b"\xff\xfe\n", "its first line is not JSON"),
        (b'{"format": 1, "foredraft": 2}\n', "foredraft is of the wrong kind"),
        (b'{"format": 1, "labels": {"model": 2}}\n', "labels is of the wrong kind"),
        *(
            (b'{"format": 1}\n{"session": "a", "round": 1, %s}\n' % field, "line 2 .* of the wrong kind")
            for field in (
                b'"sent_at_us": "x"',
                b'"overhead_us": null',
                b'"committed": true',
                b'"token": 1.5',
                b'"bytes_up": 1' + b"0" * 400,
                b'"kind": "\\ud800"',
                b'"guess_hit": 1',
                b'"hints": 3',
                b'"hints": [{"at_us": 1, "exit_layer": 1, "accepted": 1, "token": 1, "confidence": NaN}]',
            )
        ),
    ],
)
def test_what_is_no_trace_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read_trace(path)


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"format": 1, "new": 1}\n{"session": "a", "round": 1, "new": 1}\n')
    assert read_trace(path).rounds == [RoundRecord("a", 1)]


def test_a_trace_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write the trace"):
        TraceWriter(tmp_path / "no" / "such" / "folder")


def test_instants_are_read_from_the_given_clock(tmp_path: Path) -> None:
    readings = iter([5_000_000, 7_500_000])
    with TraceWriter(tmp_path / "trace.jsonl", clock_ns=lambda: next(readings)) as trace:
        assert trace.now_us() == 2_500
        assert trace.at_us(6_000_000) == 1_000


# --- what is made of it


def test_the_cloud_stands_centred_in_the_round_trip() -> None:
    (_, first), (_, second) = flights(two_rounds())
    assert first is not None
    assert second is not None
    # 50 ms in flight, 30 of them the cloud's: 10 ms of network on either side.
    assert (first.queued_at_us, first.computing_at_us, first.answered_at_us) == (30_100, 40_100, 60_100)
    assert (second.queued_at_us, second.computing_at_us, second.answered_at_us) == (80_300, 80_300, 100_300)


def test_a_cloud_that_claims_more_time_than_there_was_stays_within_the_flight() -> None:
    record = RoundRecord(SESSION, 1, sent_at_us=0, verdict_at_us=10, cloud_queued_us=40, cloud_computed_us=50)
    ((_, flight),) = flights([record])
    assert flight is not None
    assert 0 <= flight.queued_at_us <= flight.computing_at_us <= flight.answered_at_us <= 10


def test_what_the_caller_waited_for_adds_up() -> None:
    (_, first), (_, second) = attribute(two_rounds())
    assert (first.drafting_us, first.network_us, first.queue_us, first.compute_us) == (20_000, 20_000, 10_000, 20_000)
    assert (first.other_us, first.total_us) == (200, 70_200)
    # The second draft was made in the shadow of the first round's flight: it cost nothing.
    assert (second.drafting_us, second.hidden_drafting_us) == (0, 20_000)
    assert (second.network_us, second.compute_us, second.total_us) == (20_000, 20_000, 40_200)


def test_streamed_tokens_and_rounds_that_came_to_nothing() -> None:
    rounds = [
        RoundRecord(
            SESSION, 1, "cloud", committed=1, sent_at_us=0, verdict_at_us=60, committed_at_us=60, cloud_computed_us=40
        ),
        RoundRecord(SESSION, 1, "cloud", committed=1, verdict_at_us=100, committed_at_us=100, cloud_computed_us=40),
        RoundRecord(SESSION, 2),
    ]
    (_, first), (_, second) = attribute(rounds)
    assert (first.network_us, first.compute_us) == (20, 40)
    # Computed while the first token was on its way down, so the caller waited for both, one after the other.
    assert second.total_us == 40
    assert second.compute_us + second.network_us == 40


def test_the_summary(tmp_path: Path) -> None:
    (total,) = summarise(read_trace(write(tmp_path / "trace.jsonl", two_rounds())))
    assert (total.rounds, total.tokens, total.accepted, total.bytes) == (2, 7, 5, 138)
    assert (total.guesses, total.guesses_hit, total.hints, total.hints_right) == (1, 1, 2, 1)
    assert total.time.total_us == 110_400
    assert total.ms_per_token(total.overhead_us) == pytest.approx(0.25 / 7)


def spans(exported: dict[str, Any]) -> dict[str, list[tuple[str, int, int]]]:
    lanes: dict[str, list[tuple[str, int, int]]] = {}
    for event in exported["traceEvents"]:
        if event["ph"] == "X":
            lanes.setdefault(event["cat"], []).append((event["name"], event["ts"], event["ts"] + event["dur"]))
    return lanes


def test_chrome_lanes_show_what_overlaps_what(tmp_path: Path) -> None:
    exported = chrome_trace(read_trace(write(tmp_path / "trace.jsonl", two_rounds())))
    lanes = spans(json.loads(json.dumps(exported)))
    assert set(lanes) == {"edge", "link up", "cloud", "link down"}
    draft = next(span for span in lanes["edge"] if "round 2" in span[0])
    flight = next(span for span in lanes["link up"] if "round 1" in span[0])[1], lanes["link down"][0][2]
    assert flight[0] <= draft[1] < draft[2] <= flight[1]


def test_chrome_events_have_what_the_format_asks_for(tmp_path: Path) -> None:
    exported = chrome_trace(read_trace(write(tmp_path / "trace.jsonl", two_rounds())))
    for event in exported["traceEvents"]:
        assert {"ph", "pid", "tid", "name"} <= set(event)
        assert event["ph"] in {"X", "i", "s", "f", "M"}
        if event["ph"] != "M":
            assert isinstance(event["ts"], int)
        if event["ph"] == "X":
            assert event["dur"] >= 0
    started = [event["id"] for event in exported["traceEvents"] if event["ph"] == "s"]
    ended = [event["id"] for event in exported["traceEvents"] if event["ph"] == "f"]
    assert started == ended == sorted(set(started))


def test_chained_flights_get_lanes_of_their_own(tmp_path: Path) -> None:
    first, second = two_rounds()
    second.sent_at_us, second.chained = 21_000, True
    lanes = spans(chrome_trace(read_trace(write(tmp_path / "trace.jsonl", [first, second]))))
    for name, lane in lanes.items():
        ordered = sorted(lane, key=lambda span: span[1])
        for (_, _, end), (_, begin, _) in itertools.pairwise(ordered):
            assert end <= begin, name


# --- the commands


def foredraft(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "foredraft_shared", "trace", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_commands(tmp_path: Path) -> None:
    path = write(tmp_path / "trace.jsonl", two_rounds())
    with path.open("ab") as file:
        file.write(b'{"session": "a", "rou')
    exported = foredraft("export", str(path), "-o", str(tmp_path / "out.json"))
    assert exported.returncode == 0, exported.stderr
    assert json.loads((tmp_path / "out.json").read_text())["traceEvents"]
    shown = foredraft("summary", str(path))
    assert shown.returncode == 0, shown.stderr
    assert "the last line is cut short" in " ".join(shown.stderr.split())
    assert "7 tokens in 2 rounds" in shown.stdout


def test_what_a_trace_calls_its_rounds_is_no_markup(tmp_path: Path) -> None:
    shown = foredraft("summary", str(write(tmp_path / "trace.jsonl", [RoundRecord("a", 1, "[/x]", committed_at_us=1)])))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "[/x]: 0 tokens" in shown.stdout


def test_export_never_overwrites_the_trace(tmp_path: Path) -> None:
    path = write(tmp_path / "trace.json", two_rounds())
    done = foredraft("export", str(path))
    assert done.returncode == 2
    assert len(read_trace(path).rounds) == 2


def test_a_trace_without_rounds_says_so(tmp_path: Path) -> None:
    done = foredraft("summary", str(write(tmp_path / "trace.jsonl", [])))
    assert done.returncode == 2
    assert "no committed round yet" in done.stderr


def test_the_network_is_told_by_rounds_that_were_waited_for(tmp_path: Path) -> None:
    def sent(at_us: int, away_us: int, **changes: Any) -> RoundRecord:
        return RoundRecord(
            SESSION, 1, sent_at_us=at_us, verdict_at_us=at_us + away_us, cloud_queued_us=2_000, cloud_computed_us=30_000,
            **changes,
        )  # fmt: skip

    path = tmp_path / "run.jsonl"
    with TraceWriter(path) as writer:
        writer.write(sent(0, 500_000))  # reads the prompt
        writer.write(sent(600_000, 72_000))
        writer.write(sent(650_000, 99_000, chained=True))
        writer.write(RoundRecord(SESSION, 3, kind="cloud", verdict_at_us=900_000))
        writer.write(sent(1_000_000, 132_000))
    assert network_of(read_trace(path)) == [(0.6, 20.0), (1.0, 50.0)]
