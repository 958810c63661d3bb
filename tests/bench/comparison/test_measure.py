"""What is kept of a cell that is broken off; modes, devices and cloud are made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from foredraft_bench.comparison import measure
from foredraft_bench.comparison.document import CellResult
from foredraft_bench.comparison.grid import Cell, Network, Plan
from foredraft_bench.metrics import Answer
from foredraft_bench.modes import Place
from foredraft_bench.stage import Connected, Pair
from foredraft_shared.transports.relay import LinkSettings

NAMES = ("cloud", "waiting", "ahead")


class TimeIsUp(Exception):
    """As ``--minutes`` or Ctrl-C."""


@pytest.fixture(autouse=True)
def _made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer((1, 2, 3), (10.0, 20.0, 30.0))
    modes = {
        name: SimpleNamespace(name=name, lossless=True, unavailable=lambda place: "", answer=lambda *_, **__: answer)
        for name in NAMES
    }
    monkeypatch.setattr(measure, "MODES", modes)
    monkeypatch.setattr(measure, "PEERS", {})
    monkeypatch.setattr(measure, "peak_memory_mib", lambda processes: {})


def broken_off(after: int, *, prompts: int = 2, runs: int = 2) -> CellResult:
    """A cell whose time is up after so many answers."""
    cell = Cell(Network("lan", LinkSettings(rtt_ms=1.0)), 3, NAMES, runs=runs)
    told = 2 * len(NAMES)  # each mode is asked whether it can run, and warmed up

    def progress(cell: Cell, mode: str, done_ms: float) -> None:
        nonlocal told
        told -= 1
        if mode and told < -after:
            raise TimeIsUp

    place = Place(SimpleNamespace(encode=lambda text: (1,)), "target", "bfloat16", "draft")  # type: ignore[arg-type]
    pair = Pair("target", "draft", "bfloat16", None, True)
    stage: Any = SimpleNamespace(cloud=SimpleNamespace(pid=1), spell=str)
    power: Any = SimpleNamespace(joules=lambda: None)
    found: list[CellResult] = []
    measurement = measure._Measurement(
        Plan(pair, (cell,)), stage, power, Connected((place,), 1), cell, [(1,)] * prompts, progress
    )
    try:
        measurement.into(found, float("inf"))
    except TimeIsUp:
        assert after < prompts * runs * len(NAMES)
    return found[0]


@pytest.mark.parametrize("after", range(3, 13))
def test_no_mode_has_a_text_that_the_others_lack(after: int) -> None:
    cell = broken_off(after)
    texts = {name: {sample.text for sample in samples} for name, samples in cell.samples.items()}
    assert set(texts) == set(NAMES)
    assert len(set(map(frozenset, texts.values()))) == 1
    assert cell.answered == after // len(NAMES) == len(texts["cloud"])


def test_of_the_first_prompt_everything_is_kept() -> None:
    cell = broken_off(2)
    assert {name: len(samples) for name, samples in cell.samples.items()} == {"cloud": 1, "waiting": 1}
    assert cell.answered == 1
