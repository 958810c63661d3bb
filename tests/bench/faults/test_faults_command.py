"""What ``foredraft bench faults`` refuses to do before it starts anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foredraft_bench import processes
from foredraft_bench.faults import commands, world
from foredraft_shared.errors import UsageError


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"only": "xyz", "steps": 0}, "no fault's name contains 'xyz'; there are: server killed"),
        ({"only": "xyz"}, "no fault's name contains 'xyz'"),
        ({"deadlines": True, "steps": 0}, "these options take no steps"),
        ({"deadlines": True, "only": "routing id"}, "leave out same routing id twice"),
    ],
)
def test_a_run_of_nothing_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], complaint: str
) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("processes were started")

    monkeypatch.setattr(world, "World", started)
    monkeypatch.setattr(processes, "stop_on_termination", lambda: None)
    asked = {"short": True, "deadlines": False, "steps": 1000, "only": "", "fresh": False, **options}
    with pytest.raises(UsageError, match=complaint):
        commands.faults(out=tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()
