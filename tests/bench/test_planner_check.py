"""The planner's judge, on texts as a real draft foresaw them."""

from __future__ import annotations

from pathlib import Path

import pytest

from foredraft_bench.planner_check import check, recorded
from foredraft_shared.errors import UsageError

RECORDED = Path(__file__).parents[1] / "data" / "recorded_draft.json"


@pytest.mark.parametrize("network", ["lan", "5g", "intercontinental"])
def test_with_a_real_draft_s_texts_the_median_is_that_of_the_better_mode(network):
    """17 texts, each written once; the target three times as slow as its draft, and hardly slower."""
    cells = [cell for cell in recorded(RECORDED) if cell.name == network]
    assert len(cells) == 3
    for cell in cells:
        regret = check(cell, 0)
        assert regret.median < 0.03, cell.describe()
        assert regret.chosen_ms < 1.03 * regret.best_ms, cell.describe()


def test_a_file_without_recorded_texts_is_refused_in_one_line(tmp_path):
    for text in ("", "{}", '{"recorded": [1]}'):
        path = tmp_path / "networks.json"
        path.write_text(text)
        with pytest.raises(UsageError, match="holds no recorded texts"):
            list(recorded(path))
