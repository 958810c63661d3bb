"""What a user sees of a text: on a terminal, and in a pipe."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from rich.console import Console

from foredraft_edge.screen import Screen
from foredraft_edge.stream import TokenEvent
from foredraft_edge.watch import SessionState

WIDTH = 20


def final(position: int, text: str, **more: Any) -> TokenEvent:
    return TokenEvent(position, position, text, "target", False, **more)


def alone(position: int, text: str) -> TokenEvent:
    return TokenEvent(position, position, text, "edge", True, provisional=True)


class Stream:
    """A text that was written before."""

    has_server = True
    state = SessionState.ACTIVE

    def __init__(self, events: Iterable[TokenEvent], provisional: str = "") -> None:
        self._events = events
        self.provisional = provisional

    def __iter__(self) -> Iterator[TokenEvent]:
        return iter(self._events)


def shown(stream: Any, *, terminal: bool = True) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=WIDTH, color_system=None, legacy_windows=False)
    Screen(console).show(stream)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_what_is_expected_stands_behind_the_text_and_is_taken_away_again() -> None:
    said = shown(Stream([final(0, "a"), final(1, "b")], "cd\nnext line"))
    assert said == "a\x1b7cd\x1b8\x1b[Kb\x1b7cd\x1b8\x1b[K\n"


def test_a_full_line_keeps_its_last_character() -> None:
    """Behind it the cursor still stands on that character: clearing to the right would take it away."""
    said = shown(Stream([final(0, "x" * (WIDTH - 1)), final(1, "y"), final(2, "z")], "later"))
    assert said == "x" * (WIDTH - 1) + "yz\x1b7later\x1b8\x1b[K\n"
    wide = shown(Stream([final(0, "\tsix"), final(1, "日" * 7)], "later"))
    assert wide == "    six\x1b7later\x1b8\x1b[K" + "日" * 7 + "\x1b7later\x1b8\x1b[K\n"


def test_a_model_does_not_command_the_terminal_but_a_pipe_gets_every_byte() -> None:
    evil = "\x1b[2J\x1b]0;title\x07\x9b3A\x7fend\r\n"
    assert shown(Stream([final(0, evil)], "\x1b[2J")) == "�[2J�]0;title��3A�end\n\x1b7�[2J\x1b8\x1b[K"
    assert shown(Stream([final(0, evil)]), terminal=False) == evil


def test_what_was_written_alone_and_holds_is_confirmed() -> None:
    said = shown(Stream([final(0, "one"), alone(1, " two"), alone(2, " three"), final(1, " two"), final(2, " three")]))
    assert said == (
        "one\n— the server does not answer; going on alone, unverified —\n two three\n"
        "— the server is back; all 2 tokens confirmed —\n"
    )


def test_what_does_not_hold_is_written_again_from_where_the_server_went() -> None:
    events = [final(0, "one"), alone(1, " two"), alone(2, " for"), final(1, " two"), final(2, " three", revised=True)]
    said = shown(Stream([*events, final(3, " four")]))
    assert said == (
        "one\n— the server does not answer; going on alone, unverified —\n two for\n"
        "— the server is back; 1 of 2 tokens held. Verified, it reads: —\n two three four\n"
    )


def test_an_end_before_what_was_written_alone_ends() -> None:
    said = shown(Stream([alone(0, "one"), alone(1, " two"), final(0, "one", finish="stop")]))
    assert said.endswith("one two\n— the server is back; 1 of 2 tokens held. Verified, it reads: —\none\n")


def test_a_server_that_does_not_come_back() -> None:
    assert shown(Stream([final(0, "one"), alone(1, " two")])).endswith(
        " two\n— the server did not come back: the end of this was never verified —\n"
    )


def test_a_pipe_gets_the_verified_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    events = [final(0, "one"), alone(1, " two"), alone(2, " for"), final(1, " two"), final(2, " three", revised=True)]
    assert shown(Stream(events), terminal=False) == "one two three\n"
    assert capsys.readouterr().err == (
        "\n— the server does not answer; going on alone, unverified —\n\n— the server is back; 1 of 2 tokens held —\n"
    )


def test_who_cannot_go_on_alone_is_told_that_nothing_comes() -> None:
    told = threading.Event()

    class Telling(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*objects, **options)
            if "waiting for it" in str(objects):
                told.set()

    class Gone(Stream):
        def __iter__(self) -> Iterator[TokenEvent]:
            yield final(0, "one")
            self.state = SessionState.EDGE_ONLY
            assert told.wait(20.0)
            self.state = SessionState.ACTIVE
            yield final(1, " two")

    console = Telling(file=io.StringIO(), force_terminal=True, width=80, color_system=None, legacy_windows=False)
    Screen(console).show(Gone([]))  # type: ignore[arg-type]
    assert console.file.getvalue() == (  # type: ignore[attr-defined]
        "one\n— the server does not answer; waiting for it —\n— the server is back —\n two\n"
    )
