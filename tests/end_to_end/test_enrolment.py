"""How a device gets in: tokens, the commands of operator and device, and the control plane.

Real sockets on loopback: gRPC over TLS; a toy target behind it.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from secured_world import one_line, secured, soon
from toy_world import VOCABULARY, continuation

from foredraft_cloud.identity import operator_secret
from foredraft_cloud.keys import written_token
from foredraft_edge import Client
from foredraft_edge import enrolment as enrolling
from foredraft_protos import control_plane_pb2 as plane
from foredraft_protos import control_plane_pb2_grpc as plane_grpc
from foredraft_shared.command import main
from foredraft_shared.control_channel import control_channel
from foredraft_shared.errors import (
    EnrolmentRefused,
    LinkLost,
    ServerKeyMismatch,
    ServerRefused,
    UsageError,
)
from foredraft_shared.messages import SamplingParams
from foredraft_shared.models import Tokenizer
from foredraft_shared.transports.curve import new_key_pair

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("at_home")]
PROMPT = (3, 1, 4, 1, 5)
GREEDY = SamplingParams()
WAIT_S = 5.0


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_a_token_is_good_once(tmp_path: Path, audit: Any) -> None:
    with secured(tmp_path / "data") as service:
        token = service.token()
        enrolling.enrol(service.control, token, "robot")
        with pytest.raises(EnrolmentRefused, match="has been used") as caught:
            enrolling.enrol(service.control, token, "another")
        one_line(caught.value)
        assert len(service.store.devices()) == 1
        assert len(audit("enrolment token")) == 1


def test_an_expired_token_and_one_nobody_made(tmp_path: Path, audit: Any) -> None:
    with secured(tmp_path / "data") as service:
        expired = service.token(valid_s=0.0)
        time.sleep(0.01)
        for token, words in ((expired, "expired"), (written_token(b"x" * 16, service.fingerprint), "no such")):
            with pytest.raises(EnrolmentRefused, match=words):
                enrolling.enrol(service.control, token, "robot")
        assert service.store.devices() == []
        assert len(audit("enrolment token")) == 2
        for nonsense in ("", "abc", "é" * 64):
            with pytest.raises(UsageError, match="no enrolment token"):
                enrolling.enrol(service.control, nonsense, "robot")


def test_who_missed_the_answer_may_ask_again(tmp_path: Path) -> None:
    with secured(tmp_path / "data") as service:
        secret, keys = service.store.make_token(60.0), new_key_pair()
        service.store.enrol(secret, keys.public, "robot")
        service.store.enrol(secret, keys.public, "robot")
        service.store.revoke("robot")
        with pytest.raises(EnrolmentRefused):
            service.store.enrol(secret, keys.public, "robot")


def test_a_server_with_another_certificate_is_not_told_the_token(tmp_path: Path) -> None:
    with secured(tmp_path / "one") as one, secured(tmp_path / "two") as two:
        with pytest.raises(ServerKeyMismatch, match="do not go on") as caught:
            enrolling.enrol(two.control, one.token(), "robot")
        one_line(caught.value)
    with pytest.raises(LinkLost, match="control plane") as caught_lost:
        enrolling.enrol(two.control, written_token(b"x" * 16, b"y" * 32), "robot", timeout_s=1.0)
    one_line(caught_lost.value)


def test_a_server_that_cannot_write_says_so_and_the_token_stays_good(
    tmp_path: Path, audit: Any, monkeypatch: Any
) -> None:
    with secured(tmp_path / "data") as service:
        token = service.token()
        store = service.listening._store
        assert store is not None
        with monkeypatch.context() as patch:

            def full(*said: object) -> None:
                with store._explained():
                    raise sqlite3.OperationalError("database or disk is full")

            patch.setattr(store, "enrol", full)
            with pytest.raises(ServerRefused, match="the token stays good") as caught:
                enrolling.enrol(service.control, token, "robot")
        assert str(tmp_path) not in one_line(caught.value)
        assert "disk is full" in audit("enrolment")[0]["why"]
        enrolling.enrol(service.control, token, "robot")


# --- the commands ----------------------------------------------------------------------------------------------------


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What an operator and the user of a device type, in turn."""
    monkeypatch.setenv("FOREDRAFT_DATA", str(tmp_path / "data"))

    def foredraft(*words: str, code: int = 0) -> str:
        assert main(words) == code
        shown = capsys.readouterr()
        said = shown.out if code == 0 else shown.err
        assert code == 0 or (said.startswith("error: ") and said.count("\n") == 1)
        return said

    with secured(tmp_path / "data") as service:
        assert "enrolled nowhere" in foredraft("enroll")
        assert "no device is enrolled" in foredraft("keys", "list")
        command, *enroll = foredraft("keys", "token", "--control", service.control).split()
        assert (command, enroll[0]) == ("foredraft", "enroll")
        assert service.address in foredraft(*enroll, "--name", "robot")
        assert "has been used" in foredraft(*enroll, "--name", "another", code=1)
        assert "needs --token" in foredraft("enroll", service.control, code=2)
        assert "robot" in foredraft("enroll")
        assert "robot" in foredraft("keys", "list")
        foredraft("keys", "revoke", "robot")
        assert "keys list" in foredraft("keys", "revoke", "robot", code=2)
        assert "forgotten" in foredraft("enroll", service.address, "--forget")
        assert "not enrolled" in foredraft("enroll", service.address, "--forget", code=2)
        brought = new_key_pair().public
        foredraft("keys", "make", "arm", "--public-key", brought)
        assert service.store.admits(brought)
        assert service.fingerprint.hex() in foredraft("keys", "make")
        assert "open sessions: 0" in foredraft("drain", service.control)
        assert soon(service.server._stopping.is_set)
    assert "no answer" in foredraft("drain", service.control, code=1)


def test_an_enrolment_that_was_mistyped_can_be_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    nobody = "127.0.0.1:9"
    with pytest.raises(LinkLost):
        enrolling.enrol(nobody, written_token(b"x" * 16, b"y" * 32), "robot", timeout_s=0.5)
    assert list(enrolling.folder().glob("*.pending"))
    assert main(["enroll", nobody, "--forget"]) == 0
    assert "never been answered" in capsys.readouterr().out
    assert not list(enrolling.folder().iterdir())
    assert main(["enroll", nobody, "--forget"]) == 2
    capsys.readouterr()


# --- the control plane ------------------------------------------------------------------------------------------------


def test_health_reflection_and_facts(tmp_path: Path) -> None:
    with (
        secured(tmp_path / "data") as service,
        control_channel(service.control, service.fingerprint, WAIT_S) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "foredraft.control_plane.ControlPlane"):
            answered = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=WAIT_S)
            assert answered.status == health_pb2.HealthCheckResponse.SERVING
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        (listed,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=WAIT_S)
        names = {each.name for each in listed.list_services_response.service}
        assert {"foredraft.control_plane.ControlPlane", "grpc.health.v1.Health"} <= names
        facts = plane_grpc.ControlPlaneStub(channel).Facts(plane.FactsRequest(), timeout=WAIT_S)
        assert (facts.model, facts.vocabulary) == ("toy", VOCABULARY)
        assert facts.server_epoch == service.server.welcome.server_epoch


def test_only_the_operator_drains(tmp_path: Path, tokenizer: Tokenizer, audit: Any) -> None:
    with secured(tmp_path / "data", fingerprint=tokenizer.fingerprint) as service:
        enrolling.enrol(service.control, service.token(), "robot")
        with control_channel(service.control, service.fingerprint, WAIT_S) as channel:
            stub = plane_grpc.ControlPlaneStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Drain(plane.DrainRequest(grace_ms=0), timeout=WAIT_S)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert len(audit("drain")) == 1
            with Client(service.address, None, tokenizer=tokenizer) as device:
                stream = device.stream(PROMPT, max_tokens=40, stop_tokens=())
                written = [next(stream).token for _ in range(3)]
                bearer = (("authorization", f"Bearer {operator_secret(service.folder)}"),)
                reply = stub.Drain(plane.DrainRequest(grace_ms=20_000), timeout=WAIT_S, metadata=bearer)
                assert reply.sessions == 1
                answered = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
                assert answered.status == health_pb2.HealthCheckResponse.NOT_SERVING
                written += [event.token for event in stream]
                assert written == continuation(PROMPT, GREEDY, 40)
        assert soon(service.server._stopping.is_set)  # the last session is over
