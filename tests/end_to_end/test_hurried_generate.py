"""``foredraft generate --deadline-ms`` where there is no server, or a draft that loads for ever: all of that counts."""

from __future__ import annotations

import re
import threading
from typing import NoReturn

import pytest

from foredraft_shared.command import main
from foredraft_shared.errors import LinkLost

NOBODY = ("--server", "tcp://127.0.0.1:9")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["generate", *NOBODY, *words, "Why?"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


def test_nobody_is_waited_for_beyond_the_deadline(capsys: pytest.CaptureFixture[str]) -> None:
    patience = re.compile(r"within 0\.5|had not answered")  # the latter where even that took too long
    assert patience.search(said(capsys, "--draft", "none", "--deadline-ms", "600"))
    assert patience.search(said(capsys, "--draft", "auto", "--deadline-ms", "600", "--on-disconnect", "edge"))


def test_nor_is_a_draft_that_is_still_being_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr("foredraft_edge.drafters.load_drafter", lambda *_, **__: over.wait(60.0))
    try:
        draft = ("--draft", "smollm2-135m", "--on-disconnect", "edge")
        assert "the draft model was not loaded" in said(capsys, *draft, "--deadline-ms", "200")
    finally:
        loading = [thread for thread in threading.enumerate() if thread.name == "foredraft-loading"]
        over.set()
        for thread in loading:
            thread.join(10.0)


def test_half_of_the_time_is_left_to_who_can_begin_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def client(*_: object, connect_timeout_s: float, **__: object) -> NoReturn:
        given.append(connect_timeout_s)
        raise LinkLost("nobody was asked.")

    monkeypatch.setattr("foredraft_edge.commands.Client", client)
    deadline = ("--deadline-ms", "8000")
    said(capsys, "--draft", "smollm2-135m", "--on-disconnect", "edge", *deadline)
    said(capsys, "--draft", "smollm2-135m", *deadline)
    alone, waiting = given
    assert alone <= 4.0 < waiting < 8.0
