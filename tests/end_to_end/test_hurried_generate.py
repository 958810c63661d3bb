"""``foredraft generate --deadline-ms`` where there is no server: the wait for its greeting counts, too."""

from __future__ import annotations

import pytest

from foredraft_shared.command import main

NOBODY = ("--server", "tcp://127.0.0.1:9")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["generate", *NOBODY, *words, "Why?"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


def test_nobody_is_waited_for_beyond_the_deadline(capsys: pytest.CaptureFixture[str]) -> None:
    assert "within 0.2 s" in said(capsys, "--draft", "none", "--deadline-ms", "200")
    assert "within 0.2 s" in said(capsys, "--draft", "auto", "--deadline-ms", "200", "--on-disconnect", "edge")


@pytest.mark.usefixtures("smollm2")
def test_half_of_the_time_is_left_to_who_can_begin_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """This draft has nothing to say to such a question; it was asked, and not the server only."""
    draft = ("--draft", "ngram", "--tokenizer", "smollm2-135m", "--on-disconnect", "edge")
    assert "nothing had been written when the deadline passed" in said(capsys, *draft, "--deadline-ms", "200")
