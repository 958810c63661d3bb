"""``foredraft chat`` line by line, with a client that says what it is told to."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from foredraft_shared.command import main
from foredraft_shared.errors import LinkLost, PromptTooLong

Asked = list[list[Mapping[str, str]]]
Talk = Callable[..., str]
TOO_LONG = "the prompt has 9 tokens, but the model's context is 10; shorten the prompt or lower max_tokens."


@pytest.fixture
def asked() -> Asked:
    """The conversations the client was given."""
    return []


@pytest.fixture
def talk(asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    """Type these bytes; returns what is said."""

    def run(typed: bytes, *options: str, fails: Sequence[Exception | None] = (), model: str = "toy") -> str:
        failures = iter(fails)

        def stream(conversation: Sequence[Mapping[str, str]], **_: Any) -> None:
            asked.append(list(conversation))
            if (error := next(failures, None)) is not None:
                raise error

        client = SimpleNamespace(stream=stream, welcome=SimpleNamespace(model=model), drafter=None)
        monkeypatch.setattr("foredraft_edge.commands._client", lambda *_: nullcontext(client))
        monkeypatch.setattr("foredraft_edge.commands._show", lambda *_, **__: ("said", ["planner: [/x]"]))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), "utf-8"))
        assert main(["chat", *options]) == 0
        shown = capsys.readouterr()
        assert not shown.err
        return shown.out

    return run


def test_what_others_say_is_no_markup_and_commands_no_terminal(talk: Talk) -> None:
    lost = LinkLost("no answer from tcp://[fe80::1]:5555\n; \x1b[2J[/x]")
    said = talk(b"one\n/stats\ntwo\n/stats\n\n", fails=[lost], model="[/m]")
    assert "[/m], in colours" in said
    assert "error: no answer from tcp://[fe80::1]:5555 ; \ufffd[2J[/x]" in said
    assert "nothing has been said yet" in said
    assert "planner: [/x]" in said


def test_a_line_that_is_not_utf_8_costs_that_line_alone(talk: Talk, asked: Asked) -> None:
    assert "error: that line is not UTF-8 (byte 2)" in talk(b"one\nab\xff\ntwo\n\n")
    assert [conversation[-1]["content"] for conversation in asked] == ["one", "two"]
    assert len(asked[1]) == 3


def test_a_talk_that_has_grown_too_long_says_how_it_goes_on(talk: Talk, asked: Asked) -> None:
    said = talk(b"one\ntwo\n/clear\nthree\n\n", "--system", "be brief", fails=[None, PromptTooLong(TOO_LONG)])
    assert "context is 10; write /clear to forget what was said" in said
    assert [len(conversation) for conversation in asked] == [2, 4, 2]
    assert "context is 10; write less at once" in talk(b"one\n\n", fails=[PromptTooLong(TOO_LONG)])


def test_who_has_a_draft_model_begins_without_a_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed: list[bool] = []

    def client(*_: object, require_server: bool, **__: object) -> None:
        needed.append(require_server)
        raise LinkLost("nobody was asked.")

    monkeypatch.setattr("foredraft_edge.commands.Client", client)
    for options in (["--draft", "smollm2-135m"], [], ["--draft", "ngram"], ["--on-disconnect", "wait"]):
        assert main(["chat", *options]) == 1
    assert needed == [False, True, True, True]
    capsys.readouterr()
