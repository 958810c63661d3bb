"""Texts that outlive their process: the file alone."""

from __future__ import annotations

import dataclasses
import resource
from pathlib import Path

import pytest

from foredraft_edge.saved import SavedText, SessionFile, ledger_of, load_text, take_up
from foredraft_shared.errors import UsageError
from foredraft_shared.messages import SamplingParams


def text() -> SavedText:
    return SavedText(bytes(range(16)), (1, 2, 3), SamplingParams(0.8, seed=9), 20, (7,), "toy", "f00d", "float32")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answer.jsonl"


def written(path: Path) -> SessionFile:
    file = SessionFile(path, text(), begin=True)
    file.committed((4, 5), "")
    file.epoch(2)
    file.committed((6,), "")
    return file


def test_it_comes_back_as_it_was(path: Path):
    written(path).close()
    saved = load_text(path)
    assert saved.tokens == [4, 5, 6]
    assert saved.epoch == 2
    saved.tokens, saved.epoch = [], 1
    assert saved == text()


def test_the_exit_it_was_written_at_is_kept(path: Path):
    lossy = dataclasses.replace(text(), lossy_exit=20)
    SessionFile(path, lossy, begin=True).close()
    assert load_text(path) == lossy


def test_what_a_kill_cut_off_in_the_middle_of_a_line_is_dropped_and_the_rest_goes_on(path: Path):
    written(path).close()
    path.write_bytes(path.read_bytes()[:-4])
    assert load_text(path).tokens == [4, 5]
    file = SessionFile(path, load_text(path), begin=False)
    file.committed((8, 7), "stop")
    file.close()
    saved = load_text(path)
    assert (saved.tokens, saved.finish) == ([4, 5, 8, 7], "stop")


def test_every_commit_is_with_the_system_before_the_next(path: Path):
    file = written(path)
    assert load_text(path).tokens == [4, 5, 6]
    file.close()


def test_a_file_that_is_there_is_not_overwritten(path: Path):
    path.write_text("somebody's notes")
    with pytest.raises(UsageError, match="exists"):
        SessionFile(path, text(), begin=True)
    assert path.read_text() == "somebody's notes"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"hello\n",
        b"[]\n",
        b'{"version":2}\n',
        b'{"version":1,"session":"00","prompt":[1]}\n',
        b"\xff\xfe\n",
    ],
)
def test_what_is_no_saved_text_is_refused(path: Path, content: bytes):
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a text saved by foredraft"):
        load_text(path)


@pytest.mark.parametrize("change", [("[1,2,3]", "[]"), ("[4,5]", "[-4]"), ('"00010203', '"0001020'), ("0.8", "-1")])
def test_what_the_protocol_would_refuse_is_refused_here(path: Path, change: tuple[str, str]):
    written(path).close()
    content = path.read_text()
    assert change[0] in content
    path.write_text(content.replace(*change))
    with pytest.raises(UsageError):
        load_text(path)


def test_a_missing_file_is_named(path: Path):
    with pytest.raises(UsageError, match=r"answer\.jsonl"):
        load_text(path)


# --- one writer at a time

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
        ledger = ledger_of(text)
        take_up(ledger, journal)
        journal.close()
        assert ledger.epoch == epoch
        assert tuple(ledger.written) == written


@pytest.mark.parametrize(
    "line", ['{"tokens":[1],"finish":"zzz"}', '{"tokens":[1],"finish":null}', '{"tokens":[1,1,1,1]}', '{"tokens":[]}']
)
def test_an_end_that_cannot_be_is_refused(path: Path, line: str):
    SessionFile(path, dataclasses.replace(text(), max_tokens=3), begin=True).close()
    with open(path, "a") as file:
        file.write('{"tokens":[1,1,1],"finish":"stop"}\n' if "[]" in line else "")
        file.write(line + "\n")
    with pytest.raises(UsageError, match="damaged"):
        load_text(path)
    path.write_text(path.read_text().splitlines()[0] + '\n{"tokens":[1,1,1]}\n')
    with pytest.raises(UsageError, match="no end"):
        load_text(path)


def test_a_line_that_is_written_in_part_is_an_error_and_taken_back(path: Path):
    file = written(path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        with pytest.raises(UsageError, match="make room"):
            file.committed((11111, 22222, 33333), "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    file.committed((8,), "")
    file.close()
    assert load_text(path).tokens == [4, 5, 6, 8]
