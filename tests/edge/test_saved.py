"""A text's file belongs to one writer at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from foredraft_edge.saved import SavedText, SessionFile, load_text, take_up
from foredraft_shared.errors import UsageError
from foredraft_shared.messages import SamplingParams

TEXT = SavedText(b"s" * 16, (1, 2, 3), SamplingParams(), 20, (), "toy", "fingerprint", "float32")


def test_a_text_that_is_being_written_cannot_be_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    first = SessionFile(path, TEXT, begin=True)
    first.committed((7, 8), "")
    with pytest.raises(UsageError, match="another process is writing"):
        SessionFile(path, load_text(path), begin=False)
    before = load_text(path)
    first.committed((9,), "")
    first.close()
    with pytest.raises(UsageError, match="until just now"):  # what was read before the lock was had is old
        SessionFile(path, before, begin=False)
    second = SessionFile(path, load_text(path), begin=False)
    second.committed((10,), "length")
    second.close()
    assert load_text(path).tokens == [7, 8, 9, 10]


@pytest.mark.parametrize("written", [(), (7, 8)])
def test_a_text_taken_up_is_in_an_epoch_of_its_own(tmp_path: Path, written: tuple[int, ...]) -> None:
    path = tmp_path / "text.jsonl"
    first = SessionFile(path, TEXT, begin=True)
    if written:
        first.committed(written, "")
    first.close()
    for epoch in (2, 3):
        text = load_text(path)
        journal = SessionFile(path, text, begin=False)
        ledger = take_up(text, journal)
        journal.close()
        assert ledger.epoch == epoch
        assert tuple(ledger.written) == written
