"""What planners learnt survives the process, and nothing that lies in the file can do harm."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foredraft_bench.simulate import simulate
from foredraft_bench.virtual_models import Times
from foredraft_edge.experience import MOST, OLDEST_S, Experience, experience_path
from foredraft_edge.planner import AdaptivePlanner
from foredraft_shared.transports.relay import LinkSettings

LINK, TIMES = LinkSettings(rtt_ms=90.0), Times(draft_ms=5.0, verify_ms=40.0)


def experienced() -> AdaptivePlanner:
    planner = AdaptivePlanner()
    for seed in range(3):
        simulate(link=LINK, times=TIMES, acceptance=0.9, tokens=64, seed=seed, planner=planner)
    return planner


def test_a_new_process_begins_with_what_the_last_one_learnt(tmp_path: Path) -> None:
    kept = Experience(tmp_path / "deep" / "planner.json", "tcp://here:5555", "target by draft")
    old = experienced()
    kept.keep(old.learnt())
    new = AdaptivePlanner()
    new.recall(*kept.recall())
    assert new.acceptance == pytest.approx(old.acceptance, abs=0.03)
    assert new.measured.verify_ms.value == old.measured.verify_ms.value
    assert new.survival([0.9]) == pytest.approx(old.survival([0.9]), abs=0.02)
    first = simulate(link=LINK, times=TIMES, acceptance=0.9, tokens=64, planner=new)
    assert first.decisions[0].mode == "speculate", "a planner that knows nothing lets the cloud write this text"


def test_of_another_server_only_what_concerns_the_pair_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "planner.json"
    Experience(path, "tcp://here:5555", "target by draft").keep(experienced().learnt())
    new = AdaptivePlanner()
    new.recall(*Experience(path, "tcp://there:5555", "target by draft").recall())
    assert new.measured.acceptance.samples > 0
    assert new.measured.draft_ms.value == pytest.approx(5.0)
    assert new.measured.verify_ms.samples == new.measured.decode_ms.samples == 0
    stranger = Experience(path, "tcp://here:5555", "target by another draft")
    assert stranger.recall() == ({}, False)


def test_the_file_stays_small_and_forgets_what_is_old(tmp_path: Path) -> None:
    path = tmp_path / "planner.json"
    for number in range(MOST + 5):
        Experience(path, f"tcp://{number}:5555", "pair").keep({"number": number})
    told = json.loads(path.read_text())
    assert len(told["entries"]) == MOST
    assert Experience(path, f"tcp://{MOST + 4}:5555", "pair").recall() == ({"number": MOST + 4}, True)
    for entry in told["entries"]:
        entry["at"] = time.time() - OLDEST_S - 60
    path.write_text(json.dumps(told))
    assert Experience(path, f"tcp://{MOST + 4}:5555", "pair").recall() == ({}, False)


OTHER = '{"format": 1, "entries": [{"learnt": {"a": %s}, "server": "a", "pair": "b", "at": %s}]}'


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 2, "entries": []}',
        '{"format": 1}',
        "\x00\xff",
        "[" * 100_000,
        OTHER % (1, "9" * 400),
        OTHER % ("NaN", int(time.time())),
        OTHER % ("1e999", int(time.time())),
    ],
    ids=lambda content: content[:20] if content.isascii() else None,
)
def test_a_broken_file_is_as_none_and_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "planner.json"
    path.write_bytes(content.encode("latin-1"))
    kept = Experience(path, "tcp://here:5555", "pair")
    assert kept.recall() == ({}, False)
    kept.keep({"a": 1})
    assert kept.recall() == ({"a": 1}, True)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    kept = Experience(blocked / "planner.json", "tcp://here:5555", "pair")
    kept.keep({"a": 1})
    assert kept.recall() == ({}, False)


numbers = st.one_of(st.integers(-5, 200), st.floats(allow_nan=True), st.none(), st.text(max_size=3), st.booleans())
pairs = st.lists(numbers, max_size=3)
nonsense = st.fixed_dictionaries(
    {},
    optional={
        "estimates": st.one_of(numbers, st.dictionaries(st.sampled_from(["acceptance", "draft_ms", "other"]), pairs)),
        "row_ms": numbers,
        "calibration": st.one_of(numbers, st.lists(pairs, max_size=11)),
        "rounds_ms": st.one_of(numbers, pairs),
    },
)


@given(learnt=nonsense, here=st.booleans())
def test_nonsense_is_not_believed(learnt: dict[str, object], here: bool) -> None:
    planner = AdaptivePlanner()
    planner.recall(learnt, here)
    assert planner.plan(0, 64).mode in ("speculate", "cloud")
    assert 0.0 <= planner.acceptance <= 1.0
    assert planner.expected_ms() >= 0.0


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FOREDRAFT_EXPERIENCE", "none")
    assert experience_path() is None
    monkeypatch.setenv("FOREDRAFT_EXPERIENCE", "~nobody-of-that-name/planner.json")
    assert experience_path() is None
    monkeypatch.setenv("FOREDRAFT_EXPERIENCE", str(tmp_path / "mine.json"))
    assert experience_path() == tmp_path / "mine.json"
    monkeypatch.delenv("FOREDRAFT_EXPERIENCE")
    monkeypatch.setenv("FOREDRAFT_CACHE", str(tmp_path))
    assert experience_path() == tmp_path / "planner.json"
