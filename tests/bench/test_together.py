"""The benchmark of many sessions measures what it says: every pass serves all of them."""

from __future__ import annotations

import pytest
import torch
from decoder_models import tiny_model
from typer.testing import CliRunner

from foredraft_bench.commands import bench
from foredraft_bench.together import measure_together


def test_every_number_of_sessions_is_timed_with_and_without_drafts() -> None:
    before = torch.get_num_threads()
    timed = measure_together(tiny_model("llama"), [2, 5], threads=1, dtype="bfloat16", cached=20, turns=2)
    torch.set_num_threads(before)
    assert [(each.drafted, each.sessions) for each in timed] == [(0, 1), (0, 2), (0, 5), (4, 1), (4, 2), (4, 5)]
    for each in timed:
        assert each.median_ms > 0.0
        assert 0.0 < each.outside < 1.0
        assert each.latency * each.throughput == pytest.approx(each.sessions)
    assert [each.latency for each in timed if each.sessions == 1] == [1.0, 1.0]


def test_a_number_of_sessions_below_one_is_refused() -> None:
    result = CliRunner().invoke(bench, ["engine", "--sessions", "0"])
    assert result.exit_code == 2
