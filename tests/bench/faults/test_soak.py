"""When a soak has passed, and what Ctrl-C leaves of one; nothing is started."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from foredraft_bench import processes
from foredraft_bench.faults import commands, soak
from foredraft_bench.faults.resources import Sample
from foredraft_bench.faults.soak import Soak, SoakOptions, SoakReport


def report(texts: int, tokens: int, lost: int = 0, **more: Any) -> SoakReport:
    return SoakReport(SoakOptions(), texts=texts, tokens=tokens, typed_errors=Counter(LinkLost=lost), **more)


def test_texts_that_all_end_in_errors_are_no_success() -> None:
    told = report(500, 0, lost=500)
    assert not told.passed
    assert told.complaints == ["500 texts brought no token"]


def test_few_errors_of_our_own_may_be_and_many_may_not() -> None:
    assert report(500, 20_000, lost=50).passed
    told = report(500, 20_000, lost=51)
    assert not told.passed
    assert "51 of 500 texts" in told.complaints[0]


def test_nothing_written_is_no_success() -> None:
    assert not report(0, 0).passed


def test_an_interrupted_run_has_not_passed_and_is_not_blamed_for_it() -> None:
    told = report(0, 0, interrupted=True)
    assert (told.passed, told.complaints) == (False, [])


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are written by nobody, resources are always the same, and Ctrl-C comes with the first look at them."""
    edge, link = SimpleNamespace(pid=2), SimpleNamespace(reset=lambda: None, address="")
    world = SimpleNamespace(
        server=SimpleNamespace(pid=1),
        edge=lambda: contextlib.nullcontext(edge),
        link=lambda: contextlib.nullcontext(link),
    )
    monkeypatch.setattr(soak, "World", lambda *_, **__: contextlib.nullcontext(world))
    monkeypatch.setattr(processes, "stop_on_termination", lambda: None)
    monkeypatch.setattr(soak, "look", lambda process: Sample(0.0, 1000, 10, 5))
    monkeypatch.setattr(soak, "_REST_S", 0.0)
    monkeypatch.setattr(Soak, "_warm_up", lambda *_: None)

    def one_text(self: Soak, *_: Any) -> None:
        self.report.texts, self.report.tokens = 1, 64

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Soak, "_write", one_text)
    monkeypatch.setattr(Soak, "_strike", lambda *_: None)
    monkeypatch.setattr(Soak, "_pause_s", interrupted)


@pytest.mark.usefixtures("no_processes")
def test_ctrl_c_ends_a_soak_early_with_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left:
        commands.soak(seconds=600.0, sessions=1, seed=0, tolerance=4096, out=tmp_path)
    assert left.value.exit_code == 130
    told = json.loads((tmp_path / "soak.json").read_text())
    assert (told["interrupted"], told["passed"], told["texts"], told["complaints"]) == (True, False, 1, [])
    assert set(told["at_rest"]) == {"server", "device 1", "device 2", "device 3", "device 4"}
    assert "Ended early" in capsys.readouterr().out
