"""``foredraft plan``: what it answers, and how it complains."""

from __future__ import annotations

import json

import pytest

from foredraft_bench.from_trace import acceptance_by_position, recorded
from foredraft_bench.plan import Case, answer
from foredraft_bench.simulate import simulate
from foredraft_bench.virtual_models import Times
from foredraft_shared.command import main
from foredraft_shared.errors import UsageError
from foredraft_shared.traces import RoundRecord, TraceWriter
from foredraft_shared.traces.reader import Trace
from foredraft_shared.traces.records import TraceHeader
from foredraft_shared.transports.relay import LinkSettings

QUICK = ("--tokens", "48", "--texts", "1")


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["plan", *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_answer_in_json(capsys):
    code, out, _ = run(
        capsys, "--rtt", "60", "--draft-ms", "12", "--verify-ms", "45", "--acceptance", "0.8", "--json", *QUICK
    )
    assert code == 0
    told = json.loads(out)
    rows = {row["mode"]: row for row in told["rows"]}
    assert rows["cloud"]["ms_per_token"] == pytest.approx(45.0)
    assert rows["ahead"]["speedup"] == pytest.approx(45.0 / rows["ahead"]["ms_per_token"])
    assert told["case"]["link"]["rtt_ms"] == 60.0
    assert told["break_even_rtt_ms"] > 20.0


def test_the_table_fits_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(
        capsys, "--link", "wifi", "--draft-ms", "12", "--verify-ms", "45", "--acceptance", "0.9,0.8", *QUICK
    )
    assert code == 0
    assert "drafting ahead" in out
    assert "…" not in out
    assert all(len(line) <= 80 for line in out.splitlines() if "%" not in line)


def test_break_even_is_where_the_formula_puts_it():
    # A draft that is never right and costs nothing: a round is rtt + verify for one token, so nothing is ever gained.
    never = Case(LinkSettings(rtt_ms=10.0), Times(0.0, 40.0), (0.0,), tokens=32, texts=1)
    told = answer(never)
    assert told["best_mode"] == "cloud"
    assert told["break_even_acceptance"] is not None
    # One that is always right and takes 1 ms: speculation wins over very long ways.
    always = answer(Case(LinkSettings(rtt_ms=10.0), Times(1.0, 40.0), (1.0,), tokens=256, texts=1))
    assert always["break_even_rtt_ms"] > 600.0
    assert always["break_even_acceptance"] is None
    assert always["planner"]["mode"] == "speculate"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--draft-ms", "12"), "give --draft-ms, --verify-ms and --acceptance"),
        (("--draft-ms", "12", "--verify-ms", "0", "--acceptance", "0.8"), "--verify-ms is 0"),
        (("--draft-ms", "-1", "--verify-ms", "40", "--acceptance", "0.8"), "--draft-ms is -1"),
        (("--draft-ms", "1", "--verify-ms", "40", "--acceptance", "80"), "--acceptance is '80'"),
        (("--draft-ms", "1", "--verify-ms", "40", "--acceptance", "0.8", "--link", "moon"), "no link profile 'moon'"),
        (("--draft-ms", "1", "--verify-ms", "40", "--acceptance", "0.8", "--rtt", "-5"), "rtt_ms is -5"),
        (("--from-trace", "none.jsonl"), "cannot read the trace"),
    ],
)
def test_complaints_are_one_line(capsys, arguments, complaint):
    code, _, error = run(capsys, *arguments)
    assert code == 2
    assert complaint in " ".join(error.split())
    assert error.count("\n") == 1


def test_a_trace_gives_back_what_it_was_made_with(tmp_path, capsys):
    made = simulate(
        link=LinkSettings(rtt_ms=60.0), times=Times(12.0, 45.0, 0.5), acceptance=0.8, mode="ahead", tokens=3000
    )
    path = tmp_path / "trace.jsonl"
    with TraceWriter(path) as writer:
        for record in made.records:
            writer.write(record)
    found = recorded(Trace(TraceHeader(), list(made.records)))
    assert found.times.draft_ms == pytest.approx(12.0, rel=0.1)
    assert found.times.verify_ms == pytest.approx(45.0, rel=0.05)
    assert found.rtt_ms == pytest.approx(60.0, abs=6.0)
    assert found.acceptance[0] == pytest.approx(0.8, abs=0.05)
    code, out, _ = run(capsys, "--from-trace", str(path), "--json", *QUICK)
    assert code == 0
    assert json.loads(out)["case"]["link"]["rtt_ms"] == pytest.approx(60.0, abs=6.0)


def test_acceptance_by_position_counts_only_what_was_tried():
    def rounds(count: int, drafted: int, accepted: int) -> list[RoundRecord]:
        return [RoundRecord("s", 1, drafted=drafted, accepted=accepted, verdict_at_us=1) for _ in range(count)]

    # First tokens: 30 of 40 right; second: 20 of 30; no third was drafted.
    assert acceptance_by_position(rounds(10, 2, 0) + rounds(10, 2, 1) + rounds(20, 2, 2)) == (0.75, 20 / 30, 0.0)[:2]
    # Few: all positions together: 4 right, 1 wrong.
    assert acceptance_by_position(rounds(1, 3, 1) + rounds(1, 3, 3)) == (0.8,)


def test_a_trace_without_drafts_says_so():
    with pytest.raises(UsageError, match="no round with a draft"):
        recorded(Trace(TraceHeader(), [RoundRecord("s", 1, "cloud", committed=1, verdict_at_us=1)]))
