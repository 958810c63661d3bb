"""``foredraft chat`` on a terminal: what a user sees when the server is killed in the middle of an answer."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import checkpoints
import numpy as np
import pytest

from foredraft_bench.processes import CloudProcess
from foredraft_cloud.toy import toy_scores
from foredraft_shared.models import Tokenizer, open_model

pytestmark = pytest.mark.timeout(90)
MAX_TOKENS = 150
QUESTION = "Which way?"


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes find the toy server."""
    folders = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))


class Terminal:
    """A program on a terminal of 72 columns, and all it wrote there."""

    def __init__(self, *command: str) -> None:
        self.raw = b""
        self.pid, self._file = pty.fork()
        if self.pid == 0:
            try:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 72, 0, 0))
                os.environ.update(TERM="xterm-256color", NO_COLOR="")
                os.execvp(command[0], command)  # noqa: S606 - our own interpreter
            finally:
                os._exit(127)

    def type(self, line: str) -> None:
        os.write(self._file, line.encode() + b"\n")

    def wait_for(self, pattern: str, timeout_s: float = 30.0) -> str:
        """What is written from now on until it shows ``pattern``, as :func:`seen`."""
        shown = ""
        deadline = time.monotonic() + timeout_s
        begun = len(self.raw)
        while not re.search(pattern, shown):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.raw[begun:]!r}"
            if select.select([self._file], [], [], 0.1)[0]:
                data = os.read(self._file, 65536)
                self.raw += data
                shown = seen(self.raw[begun:])
        return shown

    def close(self) -> None:
        os.close(self._file)  # the program gets SIGHUP
        deadline = time.monotonic() + 10.0
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(self.pid, 9)
            time.sleep(0.01)


@contextmanager
def terminal(*command: str) -> Iterator[Terminal]:
    program = Terminal(*command)
    try:
        yield program
    finally:
        program.close()


def seen(raw: bytes) -> str:
    """The text that stays on the screen; whatever could take text away or move it is an error.

    All that is allowed is colour, and something behind the cursor that is taken away again.
    """
    text = raw.decode("utf-8", "ignore").replace("\r\n", "\n")
    text = re.sub(r"\x1b7[^\n]*?\x1b8(\x1b\[K)?", "", text)  # only the part behind the cursor is ever taken back
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text, _, unfinished = text.partition("\x1b7")
    text = re.sub(r"\x1b(\[[0-9;]*)?$", "", text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text), repr(text + unfinished)
    return text


def truth(tokenizer: Tokenizer, vocabulary: int) -> str:
    """What the toy answers, as a terminal shows it."""
    text = list(tokenizer.encode(tokenizer.chat([{"role": "user", "content": QUESTION}])))
    start = len(text)
    while len(text) - start < MAX_TOKENS:
        token = int(np.argmax(toy_scores(text, vocabulary)))
        assert token not in tokenizer.stop_tokens, "ask another question: this answer is too short"
        text.append(token)
    return re.sub(
        r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\ufffd", tokenizer.decode(text[start:]).replace("\r\n", "\n")
    )


def words(text: str) -> str:
    """Without white space: a notice begins on a new line."""
    return "".join(text.split())


def test_the_server_is_killed_while_somebody_watches(tmp_path: Path) -> None:
    model = checkpoints.write_hugging_face(tmp_path / "tiny")
    expected = truth(open_model(str(model)).tokenizer, checkpoints.VOCABULARY + 16)
    with CloudProcess(str(model), program="toy_serve") as first:
        first.wait_until_ready(30.0)
        address = first.address
        chat = ("chat", "--server", address, "--draft", f"onnx:{model}", "--max-tokens", str(MAX_TOKENS))
        with terminal(sys.executable, "-m", "foredraft_shared", *chat) as screen:
            screen.wait_for("> $")
            screen.type(QUESTION)
            screen.wait_for(re.escape(QUESTION) + r"\n(?s:.){30}")
            first.kill()
            screen.wait_for(r"going on alone, unverified —\n(?s:.){5}")
            with CloudProcess(str(model), ("--bind", address), program="toy_serve"):
                screen.wait_for(r"(?s)the server is back.* —\n.*\n> $")
    answer = seen(screen.raw).partition(QUESTION)[2].removesuffix("> ")
    written, gone, rest = answer.partition("— the server does not answer; going on alone, unverified —\n")
    alone, back, verified = rest.partition("— the server is back; ")
    assert words(written)
    assert gone
    assert len(words(alone)) > 5  # it stays, though wrong
    assert back
    verdict, _, again = verified.partition(" —\n")
    assert re.fullmatch(r"\d+ of \d+ tokens held\. Verified, it reads:", verdict)
    assert words(written + again) == words(expected)
