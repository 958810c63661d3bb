"""Lines of the log that nobody can read any more end the log, not the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from foredraft_cloud.audit import Audit
from foredraft_cloud.journal import LOG_FORMATS, Journal, LogStream, configure_logs
from foredraft_edge.link import Link
from foredraft_shared.transports.zmq import ZmqTransport


@contextmanager
def logging_to(stream: TextIO | None, form: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        configure_logs(form, "info")
    try:
        yield
    finally:
        structlog.reset_defaults()


def say_something() -> None:
    """A line from each who has some."""
    Audit().refused("not enrolled", key="abc")
    Journal().refused("overloaded", b"s" * 16, "abc")
    structlog.get_logger("foredraft.server").info("draining", sessions=2)


@pytest.mark.parametrize("form", LOG_FORMATS)
def test_a_pipe_that_nobody_reads_any_more_raises_nothing(form: str, monkeypatch: pytest.MonkeyPatch):
    reader, writer = os.pipe()
    with open(writer, "w", buffering=1) as stream, logging_to(stream, form, monkeypatch):
        os.close(reader)
        for _ in range(2000):  # more than a buffer takes
            say_something()
        # Nothing is left behind to fail when the stream is closed.


def test_a_stream_that_is_closed_or_was_never_there_raises_nothing(monkeypatch: pytest.MonkeyPatch):
    for stream in (os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"), StringIO(), None):
        with logging_to(stream, "json", monkeypatch):
            say_something()
            if stream is not None:
                stream.close()
            say_something()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the full disk is Linux's")
@pytest.mark.parametrize("form", LOG_FORMATS)
def test_what_a_full_disk_lost_is_told_when_there_is_room_again(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "serve.log"
    with path.open("w", buffering=1) as stream, logging_to(stream, form, monkeypatch):
        kept = os.dup(stream.fileno())
        full = os.open("/dev/full", os.O_WRONLY)
        say_something()
        os.dup2(full, stream.fileno())
        say_something()
        os.dup2(kept, stream.fileno())
        structlog.get_logger().info("there is room")
        structlog.get_logger().info("and more of it")
        os.close(kept)
        os.close(full)
    lines = path.read_text().splitlines()
    assert len(lines) == 6
    assert "lines of the log are lost" in lines[3]
    assert "there is room" in lines[4]
    if form == "json":
        assert [json.loads(line).get("lost") for line in lines] == [None, None, None, 3, None, None]
    else:
        assert "lost=3" in lines[3]


def test_a_line_of_which_the_disk_took_a_part_does_not_run_into_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    room = [1000, 4, 1000, 1000]
    write = os.write

    def writes_a_part(number: int, data: bytes) -> int:
        if not room:
            raise OSError(28, "No space left on device")
        return write(number, data[: room.pop(0)])

    path = tmp_path / "serve.log"
    with path.open("w") as stream:
        log = LogStream(stream, lambda lost: f"{lost} lost")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", writes_a_part)
            log.write("first\n")
            room[1:] = []
            log.write("second\n")
        log.write("third\n")
    assert path.read_text() == "first\nseco\n1 lost\nthird\n"


def test_a_server_whose_log_nobody_reads_goes_on(tmp_path: Path):
    """The one that the program which started it has forgotten: `foredraft serve … 2>&1 | head`."""
    ready = tmp_path / "ready.json"
    command = ["serve", "toy", "--bind", "tcp://127.0.0.1:0", "--ready-file", str(ready)]
    folders = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
    with subprocess.Popen(
        [sys.executable, "-m", "toy_serve", str(os.getpid()), "", *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stderr is not None
            deadline = time.monotonic() + 30.0
            while not ready.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            process.stderr.close()
            for _ in range(3):
                link = Link(ZmqTransport(json.loads(ready.read_text())["address"]), where="the server")
                assert link.greet(10.0).model == "toy"
                link.close()
            process.terminate()
            assert process.wait(20.0) == 0
        finally:
            process.kill()
