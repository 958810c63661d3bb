"""The planner's judge, on texts as a real draft foresaw them."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

import pytest

from foredraft_bench.planner_check import check, recorded
from foredraft_shared.errors import UsageError

RECORDED = Path(__file__).parents[1] / "data" / "recorded_draft.json"


def test_with_a_real_draft_s_texts_the_planner_is_hardly_slower_than_the_better_mode():
    """Eight texts, each written once; targets that are three times as slow as the draft, hardly slower, and twice as slow."""
    cells = [cell for cell in recorded(RECORDED) if cell.name in ("lan", "intercontinental")]
    assert len(cells) == 6
    regrets = [check(dataclasses.replace(cell, recorded=cell.recorded[:8]), 0) for cell in cells]
    assert statistics.mean(regret.later for regret in regrets) < 0.015
    assert max(regret.later for regret in regrets) < 0.05
    assert max(regret.median for regret in regrets) < 0.03


def test_a_file_without_recorded_texts_is_refused_in_one_line(tmp_path):
    for text in ("", "{}", '{"recorded": [1]}'):
        path = tmp_path / "networks.json"
        path.write_text(text)
        with pytest.raises(UsageError, match="holds no recorded texts"):
            list(recorded(path))
