"""`foredraft serve` as a process: SIGTERM lets it finish what is under way, a second one or Ctrl-C does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from foredraft_bench.processes import CloudProcess
from foredraft_cloud.identity import certificate
from foredraft_edge.link import Link
from foredraft_shared.errors import PromptTooLong
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import Failure, Open, Verdict
from foredraft_shared.private_files import write_private
from foredraft_shared.transports.zmq import ZmqTransport

pytestmark = pytest.mark.timeout(60)
PROMPT = (1, 2, 3)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes find the toy server."""
    folders = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))


@contextmanager
def writing(count: int, *options: str) -> Iterator[tuple[CloudProcess, Link]]:
    """A server that has begun to write ``count`` tokens for us."""
    with CloudProcess("toy", options, program="toy_serve") as cloud:
        cloud.wait_until_ready(30.0)
        link = Link(ZmqTransport(cloud.address), where="the server")
        try:
            link.greet(10.0)
            ledger = Ledger(b"s" * 16, PROMPT)
            link.send(Open(ledger.session, PROMPT, max_tokens=count))
            link.send(ledger.request(count))
            assert verdicts(link, 1, 20.0) == 1
            yield cloud, link
        finally:
            link.close()


def verdicts(link: Link, most: int, timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    heard = 0
    while heard < most and time.monotonic() < deadline:
        heard += isinstance(link.receive(0.1), Verdict)
    return heard


def test_sigterm_lets_rounds_in_flight_finish_and_ends_well():
    with writing(60, "--grace", "60") as (cloud, link):
        os.kill(cloud.pid, signal.SIGTERM)
        assert verdicts(link, 59, 30.0) == 59
        deadline = time.monotonic() + 20.0
        while not cloud.wait(0.01) and time.monotonic() < deadline:
            link.receive(0.05)
        assert cloud.wait(0.1)
        assert cloud._process.returncode == 0
        assert link.going_away is not None


def test_a_second_sigterm_does_not_wait():
    with writing(3000, "--grace", "600") as (cloud, link):
        os.kill(cloud.pid, signal.SIGTERM)
        assert verdicts(link, 3, 20.0) == 3  # it goes on
        os.kill(cloud.pid, signal.SIGTERM)
        deadline = time.monotonic() + 20.0
        while not cloud.wait(0.01) and time.monotonic() < deadline:
            link.receive(0.05)
        assert cloud._process.returncode == 0


def test_ctrl_c_does_not_wait_either():
    with writing(3000, "--grace", "600") as (cloud, link):
        os.kill(cloud.pid, signal.SIGINT)
        begun = time.monotonic()
        while not cloud.wait(0.01) and time.monotonic() < begun + 20.0:
            link.receive(0.05)
        assert cloud._process.returncode == 0
        assert link.going_away is not None


def test_caps_are_options():
    caps = ("--prompt-tokens", "3", "--rounds-in-flight", "2", "--sessions-per-device", "1", "--rounds-per-second", "5")
    with writing(5, *caps) as (_, link):
        link.send(Open(b"l" * 16, (1, 2, 3, 4)))
        deadline = time.monotonic() + 10.0
        while not isinstance(said := link.receive(0.1), Failure) and time.monotonic() < deadline:
            pass
        assert isinstance(said, Failure)
        assert (said.code, said.session) == (PromptTooLong.code, b"l" * 16)


def refused(*options: str, code: int = 2) -> str:
    """The one line with which a server does not begin."""
    done = subprocess.run(
        [sys.executable, "-m", "toy_serve", str(os.getpid()), "", "serve", "toy", *options],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == code, done.stderr
    *said, line = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert all("listens on" in each for each in said)
    return line


@pytest.mark.parametrize("context", ["-5", "0"])
def test_a_context_of_no_tokens_is_refused(context: str):
    assert "--context" in refused("--context", context)


def test_a_ready_file_that_cannot_be_written_is_said_before_the_model_is_loaded(tmp_path: Path):
    assert "there is no folder" in refused("--ready-file", str(tmp_path / "nowhere" / "ready.json"))
    assert "is a folder" in refused("--ready-file", str(tmp_path))


def test_a_ready_file_that_cannot_be_written_after_all_ends_the_server_in_one_line(tmp_path: Path):
    """A name that is just short enough, but not with our number behind it."""
    line = refused("--bind", "tcp://127.0.0.1:0", "--ready-file", str(tmp_path / ("r" * 255)))
    assert "cannot write --ready-file" in line
    assert not list(tmp_path.glob("r*"))


def test_keys_that_are_damaged_are_said_in_one_line(tmp_path: Path):
    data = tmp_path / "data"
    for name in ("control.key", "operator.secret"):
        write_private(data / name, b"")
        if name == "control.key":
            write_private(data / "control.crt", certificate(tmp_path / "other").chain)
        options = ("--secure", "--bind", "tcp://127.0.0.1:0", "--control", "127.0.0.1:0", "--data", str(data))
        assert f"{name} is damaged" in refused(*options)
        (data / name).unlink()
    write_private(data / "control.key", b"")
    assert "control.key is damaged" in refused("--metrics", "0.0.0.0:0", "--data", str(data))
