"""``foredraft bench engine`` and ``bench drafters`` complain before they work, and time what was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_models import tiny_model

from foredraft_bench import drafters, engine
from foredraft_bench.floor import RandomModel
from foredraft_bench.together import measure_together
from foredraft_shared.command import main
from foredraft_shared.errors import UsageError


@pytest.fixture(autouse=True)
def _threads_as_before() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "options", [["engine"], ["engine", "--floor"], ["engine", "--sessions", "2"], ["drafters"]], ids=" ".join
)
def test_a_file_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    def work(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was measured")

    for module, name in ((engine, "measure_engine"), (engine, "measure_together"), (drafters, "measure_drafters")):
        monkeypatch.setattr(module, name, work)
    for module in (engine, drafters):
        monkeypatch.setattr(module, "open_model", work)
    monkeypatch.setattr("foredraft_bench.floor.measure_floor", work)
    assert main(["bench", *options, "--json", str(tmp_path / "none" / "x.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_more_cached_tokens_than_a_thousand_are_timed() -> None:
    shape = replace(RandomModel().config, layers=1, hidden=64, heads=2, kv_heads=1, head_dim=32, feed_forward=64)
    model: Any = RandomModel(replace(shape, vocabulary=320, context=2048))
    timed = engine.measure_engine(model, threads=1, cached=1100, turns=1, compare=False)
    assert [each.rows for each in timed] == [1, 8, 9, 8]


def test_more_than_the_model_s_context_is_refused() -> None:
    model = tiny_model("llama")
    context = model.config.context
    with pytest.raises(UsageError, match=f"do not fit into a context of {context}; give at most {context - 9}"):
        engine.measure_engine(model, threads=1, cached=context, turns=1, compare=False)
    with pytest.raises(UsageError, match=f"do not fit into a context of {context}"):
        measure_together(model, [2], threads=1, dtype="bfloat16", cached=context, turns=1)
