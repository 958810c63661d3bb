"""Everything that can be wrong between a device and a server is caused, and the doctor says what it is and what to do."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import structlog
from secured_world import secured
from toy_world import VOCABULARY

from foredraft_cloud.engine import EngineOptions
from foredraft_cloud.server import Server
from foredraft_cloud.toy import ToyPass, ToyTarget
from foredraft_edge import enrolment
from foredraft_edge.link import Link
from foredraft_shared.command import main
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import PROTOCOL_VERSION, Open, SamplingParams
from foredraft_shared.transports.curve import new_key_pair
from foredraft_shared.transports.link import LinkEmulator
from foredraft_shared.transports.zmq import ZmqListener, ZmqTransport

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(autouse=True)
def quiet_server() -> Iterator[None]:
    """Its log would stand between the doctor's lines."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own folders, with nothing in them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("FOREDRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "config" / "foredraft"


Findings = dict[str, dict[str, Any]]
Look = Callable[..., Findings]


@pytest.fixture
def look(capsys: pytest.CaptureFixture[str]) -> Look:
    """What ``foredraft doctor --json`` finds, by check."""

    def run(*words: str, timeout_s: float = 20.0) -> Findings:
        begun = time.monotonic()
        code = main(["doctor", "--json", "--timeout", f"{timeout_s:g}", *words])
        assert time.monotonic() - begun < timeout_s + 10.0  # what this machine takes for itself comes on top
        shown = capsys.readouterr()
        assert not shown.err
        report = json.loads(shown.out)
        failed = [finding for finding in report["findings"] if finding["status"] == "fail"]
        assert (code, report["ok"]) == ((1, False) if failed else (0, True))
        assert all(finding["remedy"] for finding in report["findings"] if finding["status"] != "ok")
        return {finding["check"]: finding for finding in report["findings"]}

    return run


def fails(findings: Findings, check: str, words: str, remedy: str) -> None:
    """This check and no other has failed, and nothing was looked at that lies behind it."""
    assert [name for name, finding in findings.items() if finding["status"] == "fail"] == [check], findings
    assert words in findings[check]["finding"]
    assert remedy in findings[check]["remedy"]
    assert "speculation" not in findings


@contextmanager
def serving(target: ToyTarget | None = None, **options: Any) -> Iterator[tuple[Server, str]]:
    """A toy server in the clear, on loopback."""
    listener = ZmqListener(options.pop("bind", "tcp://127.0.0.1:0"))
    options = {"model": "toy", "fingerprint": "toy", **options}
    server = Server(target or ToyTarget(vocabulary=VOCABULARY), listener, **options)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server, listener.address
    finally:
        server.stop()
        thread.join(15.0)
        assert not thread.is_alive()


@contextmanager
def listening(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """Something that listens on a port and is no server of ours."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        stop = threading.Event()
        listener.settimeout(0.1)

        def accept() -> None:
            while not stop.is_set():
                try:
                    connection = listener.accept()[0]
                except TimeoutError:
                    continue
                kept.append(connection)
                answer(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        stack.callback(lambda: [connection.close() for connection in kept])
        stack.callback(thread.join)
        stack.callback(stop.set)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


# --- nobody there, or somebody else ----------------------------------------------------------------------------------


def test_a_name_that_does_not_resolve(look: Look) -> None:
    fails(look("no-such-robot.invalid:5555"), "name", "no-such-robot.invalid does not resolve", "spelling")


def test_nobody_listens(look: Look) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    fails(look(f"127.0.0.1:{port}"), "port", "nobody listens", "foredraft serve")
    fails(look("ipc:///tmp/foredraft-no-such-socket"), "server", "nobody listens", "foredraft serve --bind ipc://")


def test_a_firewall_that_drops_what_is_sent(look: Look) -> None:
    """A listener whose queue is full: the kernel drops what comes, as a firewall does."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        fails(look(f"127.0.0.1:{listener.getsockname()[1]}"), "port", "firewall drops", "pass its firewall")


def test_an_http_server_there(look: Look) -> None:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # who asks hangs up in the middle of the answer

    with Server(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            fails(look(f"127.0.0.1:{server.server_address[1]}"), "server", "HTTP server", "port 5555")
        finally:
            server.shutdown()
            thread.join()


def test_the_control_plane_in_place_of_the_token_plane(look: Look, tmp_path: Path) -> None:
    with secured(tmp_path / "data") as service:
        fails(look(service.control), "server", "is a control plane", "token plane's address")


def test_another_program_a_silent_one_and_a_tunnel_with_nobody_behind_it(look: Look) -> None:
    with listening(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")) as address:
        fails(look(address), "server", "SSH-2.0-OpenSSH", "check host and port")
    with listening(lambda connection: None) as address:
        fails(look(address), "server", "says nothing", "check the port")
    with listening(lambda connection: connection.close()) as address:
        fails(look(address), "server", "hangs up", "tunnel")


# --- keys ------------------------------------------------------------------------------------------------------------


def test_not_enrolled(look: Look, tmp_path: Path) -> None:
    with secured(tmp_path / "data") as service:
        fails(look(service.address), "enrolment", "only enrolled devices", "foredraft enroll")


def test_enrolled_under_another_name_of_the_same_machine(look: Look, tmp_path: Path) -> None:
    with secured(tmp_path / "data") as service:
        service.device("robot")
        elsewhere = service.address.replace("127.0.0.1", "0x7f000001")  # another way to write it
        fails(look(elsewhere), "enrolment", "under another name", f"--server {service.address}")


def test_revoked(look: Look, tmp_path: Path) -> None:
    with secured(tmp_path / "data") as service:
        service.device("robot")
        service.store.revoke("robot")
        fails(look(service.address), "enrolment", "revoked", "foredraft enroll")


def test_a_server_with_another_key(look: Look, tmp_path: Path) -> None:
    with secured(tmp_path / "data") as service:
        made, _ = service.device("robot")
        kept = next((enrolment.folder()).glob("*.json"))
        kept.write_text(kept.read_text().replace(json.dumps(made.server_key), json.dumps(new_key_pair().public)))
        fails(look(service.address), "server key", "does not have the key", "do not go on")


def test_enrolled_but_what_answers_does_not_encrypt(look: Look, tmp_path: Path) -> None:
    with secured(tmp_path / "data") as service:
        service.device("robot")
    with serving(bind=service.address):
        fails(look(service.address), "encryption", "does not encrypt", f"foredraft enroll {service.control} --forget")


def test_the_server_this_device_is_enrolled_with_needs_no_naming(look: Look, tmp_path: Path) -> None:
    with secured(tmp_path / "data", fingerprint="") as service:
        service.device("robot")
        findings = look("--draft", "ngram")
    assert findings["encryption"]["finding"] == "CURVE, and this device has keys for it"
    assert findings["target"]["status"] == "ok"
    assert findings["round trip"]["figures"]["median_ms"] > 0.0
    assert findings["speculation"]["figures"]["alone_ms"] >= 20.0  # what a pass of this toy takes


# --- what the server is ----------------------------------------------------------------------------------------------


def test_another_version_of_the_protocol(look: Look) -> None:
    with serving() as (server, address):
        server.welcome = replace(server.welcome, protocol=PROTOCOL_VERSION + 1)
        fails(look(address), "protocol", "protocol 2, this device 1", "same version of foredraft")


def test_a_draft_that_speaks_other_token_ids(look: Look, tmp_path: Path) -> None:
    draft = checkpoints.write_hugging_face(tmp_path / "draft")
    with serving() as (_, address):
        fails(look(address, "--draft", f"onnx:{draft}"), "tokenizer", "is not that of toy", "own family")


def test_a_draft_that_is_missing_does_not_hide_the_rest(look: Look, tmp_path: Path) -> None:
    with serving() as (_, address):
        findings = look(address, "--draft", str(tmp_path / "nowhere.gguf"))
    fails(findings, "draft", "no such file", "check the path")
    assert findings["target"]["status"] == "ok"


class StuckTarget(ToyTarget):
    """Alive, but its passes do not end before they are let."""

    def __init__(self) -> None:
        super().__init__(vocabulary=VOCABULARY)
        self.let = threading.Event()

    def verify(self, batch: Any, *, exits: bool = True) -> ToyPass:
        self.let.wait(60.0)
        return super().verify(batch, exits=exits)


def test_the_server_is_alive_but_its_model_does_not_answer(look: Look) -> None:
    target = StuckTarget()
    with serving(target) as (_, address):
        try:
            findings = look(address, timeout_s=6.0)
        finally:
            target.let.set()
    fails(findings, "target", "alive but its model does not answer", "restart")
    assert findings["round trip"]["status"] == "ok"


def other_text(address: str) -> Link:
    """Another device in the middle of a long text."""
    link = Link(ZmqTransport(address), where=address)
    link.greet()
    ledger = Ledger(b"o" * 16, (1, 2, 3))
    link.send(Open(ledger.session, tuple(ledger.tokens), SamplingParams(), 1000))
    link.send(ledger.request(1))
    while link.receive(1.0) is None:
        pass
    return link


def test_a_server_that_is_full(look: Look) -> None:
    with serving(options=EngineOptions(max_sessions=1)) as (_, address), closing(other_text(address)):
        fails(look(address), "target", "takes no more texts", "try again in")


def test_a_server_that_is_about_to_stop(look: Look) -> None:
    with serving() as (server, address), closing(other_text(address)):
        server.drain(60.0)
        fails(look(address), "server", "takes no new texts", "come back in")


# --- the link --------------------------------------------------------------------------------------------------------


def test_a_round_trip_is_measured_by_this_device_alone(look: Look) -> None:
    with serving() as (_, address), LinkEmulator(address, rtt_ms=60.0) as link:
        figures = look(link.address, "--draft", "none")["round trip"]["figures"]
    assert 60.0 <= figures["min_ms"] <= figures["median_ms"] <= figures["p95_ms"]
    assert figures["median_ms"] < 150.0


def test_a_link_that_goes_dead_does_not_hold_the_doctor(look: Look) -> None:
    with serving() as (_, address), LinkEmulator(address, rtt_ms=5.0) as link:
        cut = threading.Timer(0.8, link.black_hole)
        cut.start()
        try:
            findings = look(link.address, timeout_s=6.0)
        finally:
            cut.join()
    assert any(finding["status"] != "ok" for name, finding in findings.items() if name not in ("power", "draft"))


# --- how it is shown -------------------------------------------------------------------------------------------------


def test_one_line_a_finding_and_no_server_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "warn") for line in lines[:-1])
    assert {"memory", "cache", "keys", "draft"} <= {line.split()[1] for line in lines[:-1]}
    assert "name a server" in lines[-1]


def test_a_failed_finding_is_a_line_with_the_remedy_and_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert main(["doctor", f"tcp://127.0.0.1:{port}"]) == 1
    shown = capsys.readouterr()
    assert f"fail  port         nobody listens at tcp://127.0.0.1:{port}; start the server there" in shown.out
    assert not shown.err


def test_what_is_no_address_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "nonsense"]) == 2
    assert "HOST:PORT" in capsys.readouterr().err
