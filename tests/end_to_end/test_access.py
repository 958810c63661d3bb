"""Who is not let in stays outside, is told why in one line, and leaves one line in the audit log.

Real sockets on loopback: CURVE, the authenticator, gRPC over TLS; a toy target behind them.
"""

from __future__ import annotations

import socket
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from secured_world import Tap, one_line, secured, soon
from toy_world import continuation

from foredraft_cloud import keys
from foredraft_cloud.audit import NO_KEYS
from foredraft_cloud.caps import Caps
from foredraft_cloud.engine import EngineOptions
from foredraft_cloud.identity import operator_secret
from foredraft_cloud.listening import Listening
from foredraft_edge import Client
from foredraft_edge import enrolment as enrolling
from foredraft_edge.link import Link
from foredraft_shared.errors import (
    EnrolmentRefused,
    ForedraftError,
    InsecureBind,
    LinkLost,
    NotEnrolled,
    Overloaded,
    PromptTooLong,
    ServerKeyMismatch,
    SessionUnknown,
    UsageError,
)
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import Close, Draft, Failure, Open, Resume, SamplingParams, Verdict
from foredraft_shared.models import Tokenizer
from foredraft_shared.transports.curve import KeyPair, client_keys, new_key_pair
from foredraft_shared.transports.zmq import ZmqListener, ZmqTransport

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("at_home")]
PROMPT = (3, 1, 4, 1, 5)
GREEDY = SamplingParams()
WAIT_S = 5.0


@contextmanager
def greeted(transport: ZmqTransport, timeout_s: float = WAIT_S) -> Iterator[Link]:
    link = Link(transport, where="the server")
    try:
        link.greet(timeout_s)
        yield link
    finally:
        link.close()


def refused(kind: type[ForedraftError], transport: ZmqTransport, words: str) -> None:
    begun = time.monotonic()
    with pytest.raises(kind, match=words) as caught, greeted(transport):
        pass
    one_line(caught.value)
    assert time.monotonic() - begun < WAIT_S


def answer(link: Link, kind: type) -> Any:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        message = link.receive(0.2)
        if isinstance(message, kind):
            return message
    raise AssertionError(f"no {kind.__name__}")


# --- the way in ------------------------------------------------------------------------------------------------------


def test_an_enrolled_device_writes(tmp_path: Path, tokenizer: Tokenizer, at_home: Path) -> None:
    with secured(tmp_path / "data", fingerprint=tokenizer.fingerprint) as service:
        made = enrolling.enrol(service.control, service.token(), "robot")
        assert made.endpoints == (service.address,)
        with Client(service.address, None, tokenizer=tokenizer) as device:  # finds its enrolment by itself
            written = device.generate(PROMPT, max_tokens=20, stop_tokens=())
        assert list(written.tokens) == continuation(PROMPT, GREEDY, 20)
        (known,) = service.store.devices()
        assert (known.name, known.public_key) == ("robot", made.public_key)
        assert known.seen is not None
        assert made.secret_key not in (tmp_path / "data" / "keys.sqlite").read_text("latin-1")


def test_a_listener_that_begins_anew_costs_no_token_and_guards_as_before(
    tmp_path: Path, tokenizer: Tokenizer, at_home: Path, audit: Any
) -> None:
    """As it does when more comes than it can read."""
    with secured(tmp_path / "data", fingerprint=tokenizer.fingerprint) as service:
        enrolling.enrol(service.control, service.token(), "robot")
        listener = service.listening.listener
        with Client(service.address, None, tokenizer=tokenizer) as device:
            stream = device.stream(PROMPT, max_tokens=300, stop_tokens=())
            tokens = [next(stream).token for _ in range(5)]
            too_large = listener._backlog.too_large
            listener._backlog.too_large = lambda: not listener.restarts or too_large()  # type: ignore[method-assign]
            tokens += [event.token for event in stream]
        assert listener.restarts == 1
        assert tokens == continuation(PROMPT, GREEDY, 300)
        refused(NotEnrolled, ZmqTransport(service.address), "enroll")
        assert soon(lambda: audit(NO_KEYS))


def test_keys_are_for_their_owner_only(tmp_path: Path, at_home: Path) -> None:
    with secured(tmp_path / "data") as service:
        enrolling.enrol(service.control, service.token(), "robot")
    kept = [*(tmp_path / "data").iterdir(), *(at_home / "enrolments").iterdir()]
    assert {path.name for path in kept} >= {
        "server.key",
        "control.key",
        "control.crt",
        "operator.secret",
        "keys.sqlite",
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept if path.name != "lock"} == {0o600}
    for folder in (tmp_path / "data", at_home / "enrolments"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (file,) = (at_home / "enrolments").glob("*.json")
    file.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        enrolling.enrolments()


def test_the_server_keeps_its_identity_over_a_restart(tmp_path: Path) -> None:
    with secured(tmp_path / "data") as service:
        before = (service.fingerprint, operator_secret(service.folder))
        made, _ = service.device("robot")
    with secured(tmp_path / "data") as service:
        assert (service.fingerprint, operator_secret(service.folder)) == before
        keys = KeyPair(made.public_key, made.secret_key)
        with greeted(ZmqTransport(service.address, secure=client_keys(made.server_key, keys))):
            pass


def test_beyond_this_machine_only_with_keys() -> None:
    with pytest.raises(InsecureBind):
        ZmqListener("tcp://0.0.0.0:0")
    with pytest.raises(InsecureBind):
        Listening("tcp://0.0.0.0:0", secure=False, folder=Path("unused"))


# --- those who stay outside ------------------------------------------------------------------------------------------


def test_not_enrolled(tmp_path: Path, audit: Any) -> None:
    with secured(tmp_path / "data") as service:
        made, _ = service.device("robot")
        stranger = ZmqTransport(service.address, secure=client_keys(made.server_key, new_key_pair()))
        refused(NotEnrolled, stranger, "foredraft enroll")
    assert [line["what"] for line in audit()] == ["not enrolled"]


def test_revoked_before_it_comes(tmp_path: Path, audit: Any) -> None:
    with secured(tmp_path / "data") as service:
        _, connect = service.device("robot")
        service.store.revoke("robot")
        refused(NotEnrolled, connect(), "or revoked")
    assert [(line["what"], line["device"]) for line in audit()] == [("revoked", "robot")]


def test_a_store_that_another_program_holds_keeps_a_device_waiting_and_turns_it_not_away(
    tmp_path: Path, audit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_WAIT_MS", 50)
    with secured(tmp_path / "data") as service:
        _, connect = service.device("robot")
        with closing(sqlite3.connect(tmp_path / "data" / "keys.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(LinkLost), greeted(connect(), 2.0):
                pass
            assert audit("the key store cannot be read")
            link = Link(connect(), where="the server")
            assert link.receive(1.0) is None  # it tries meanwhile
            other.execute("ROLLBACK")
            link.greet(20.0)
            link.close()


def test_a_token_twice(tmp_path: Path, audit: Any) -> None:
    with secured(tmp_path / "data") as service:
        token = service.token()
        enrolling.enrol(service.control, token, "robot")
        with pytest.raises(EnrolmentRefused, match="has been used") as caught:
            enrolling.enrol(service.control, token, "another")
        one_line(caught.value)
        assert [device.name for device in service.store.devices()] == ["robot"]
    assert [line["what"] for line in audit()] == ["enrolment token"]


def test_no_keys_at_all(tmp_path: Path, audit: Any) -> None:
    with secured(tmp_path / "data") as service:
        refused(NotEnrolled, ZmqTransport(service.address), "only enrolled devices.*foredraft enroll")
        assert soon(lambda: audit(NO_KEYS))
    assert audit() == audit(NO_KEYS)
    assert len(audit()) == 1


def test_wrong_server_key(tmp_path: Path, audit: Any) -> None:
    with secured(tmp_path / "data") as service:
        made, _ = service.device("robot")
        keys = KeyPair(made.public_key, made.secret_key)
        elsewhere = ZmqTransport(service.address, secure=client_keys(new_key_pair().public, keys))
        refused(ServerKeyMismatch, elsewhere, "does not have the key.*enrol again")
        assert soon(lambda: audit("expects another server key"))
    assert [line["what"] for line in audit()] == ["expects another server key"]


def test_there_is_no_way_back_to_talking_in_the_clear() -> None:
    with closing(ZmqListener()) as listener:
        keys = client_keys(new_key_pair().public, new_key_pair())
        refused(ServerKeyMismatch, ZmqTransport(listener.address, secure=keys), "does not encrypt")


def test_a_relay_with_nobody_behind_it_is_a_lost_link_and_no_wrong_key() -> None:
    with socket.create_server(("127.0.0.1", 0)) as relay:
        stop = threading.Event()

        def hang_up() -> None:
            relay.settimeout(0.1)
            while not stop.is_set():
                try:
                    relay.accept()[0].close()
                except TimeoutError:
                    continue

        thread = threading.Thread(target=hang_up)
        thread.start()
        keys = client_keys(new_key_pair().public, new_key_pair())
        transport = ZmqTransport(f"tcp://127.0.0.1:{relay.getsockname()[1]}", secure=keys)
        try:
            with pytest.raises(LinkLost), greeted(transport, 2.0):
                pass
        finally:
            stop.set()
            thread.join()


def test_revoked_while_writing(tmp_path: Path, tokenizer: Tokenizer, audit: Any) -> None:
    with secured(tmp_path / "data", fingerprint=tokenizer.fingerprint) as service:
        enrolling.enrol(service.control, service.token(), "robot")
        with Client(service.address, None, tokenizer=tokenizer) as device:
            stream = device.stream(PROMPT, max_tokens=3000, stop_tokens=())
            written = [next(stream).token for _ in range(5)]
            service.store.revoke("robot")
            begun = time.monotonic()
            with pytest.raises(NotEnrolled) as caught:
                written.extend(event.token for event in stream)
            assert "revoked" in one_line(caught.value)
            assert time.monotonic() - begun < 2.0
            assert soon(lambda: service.server._engine.sessions == 0)
            assert written == continuation(PROMPT, GREEDY, len(written))
        with pytest.raises(NotEnrolled, match="revoked") as caught, Client(service.address, None, tokenizer=tokenizer):
            pass
        one_line(caught.value)
        assert audit("revoked")


def test_a_revoked_device_that_goes_on_talking_is_cut_off(tmp_path: Path) -> None:
    with secured(tmp_path / "data") as service:
        _, connect = service.device("robot")
        with greeted(connect()) as link:
            link.send(Open(b"s" * 16, PROMPT, max_tokens=50))
            service.store.revoke("robot")
            assert answer(link, Failure).code == "not_enrolled"

            def talk() -> None:
                for _ in range(100):
                    link.send(Draft(b"s" * 16, 1, 1, 5, Ledger(b"s" * 16, PROMPT).digest, ()))
                    assert not isinstance(link.receive(0.05), Verdict)

            with pytest.raises((NotEnrolled, LinkLost)):
                talk()
            assert soon(lambda: _raises(NotEnrolled, link))


def _raises(kind: type[Exception], link: Link) -> bool:
    try:
        link.receive(0.05)
    except kind:
        return True
    return False


def test_a_server_set_up_anew_at_the_same_address(tmp_path: Path) -> None:
    """The device was connected, and its server comes back with another key: it says so, and tries no longer."""
    with ExitStack() as stack:
        with secured(tmp_path / "one") as service:
            _, connect = service.device("robot")
            link = stack.enter_context(greeted(connect()))
            service.server.stop()
            assert soon(lambda: link.receive(0.05) or link.going_away)
        with secured(tmp_path / "two", bind=service.address):
            assert soon(lambda: _raises(ServerKeyMismatch, link))


# --- sessions and caps ------------------------------------------------------------------------------------------------


def test_another_devices_session(tmp_path: Path, audit: Any) -> None:
    session = b"s" * 16
    with secured(tmp_path / "data") as service:
        (_, connect_owner), (_, connect_thief) = service.device("owner"), service.device("thief")
        with greeted(connect_owner()) as owner, greeted(connect_thief()) as thief:
            ledger = Ledger(session, PROMPT)
            owner.send(Open(session, PROMPT, max_tokens=50))
            owner.send(Draft(session, 1, 1, 5, ledger.digest, ()))
            first = answer(owner, Verdict)
            attempts = (
                Open(session, PROMPT, max_tokens=50),
                Draft(session, 1, 1, 5, ledger.digest, ()),
                Resume(session, 9, (*PROMPT, first.token), len(PROMPT), max_tokens=50),
                Close(session),
            )
            for attempt in attempts:
                thief.send(attempt)
                if not isinstance(attempt, Close):  # which is never answered
                    assert answer(thief, Failure).code == SessionUnknown.code
            assert thief.receive(0.2) is None  # nothing leaks later either
            owner.send(Draft(session, 1, 1, 5, ledger.digest, ()))
            assert replace(answer(owner, Verdict), timing=first.timing) == first
        assert len(audit("another device's session")) == len(attempts)


def test_caps_of_a_device(tmp_path: Path, audit: Any) -> None:
    caps = Caps(rounds_per_second=5.0, prompt_tokens=20)
    with secured(tmp_path / "data", caps=caps, options=EngineOptions(max_sessions_per_device=2)) as service:
        (_, connect), (_, connect_other) = service.device("robot"), service.device("other")
        with greeted(connect()) as link, greeted(connect_other()) as other:
            link.send(Open(b"p" * 16, tuple(range(21)), max_tokens=5))
            assert answer(link, Failure).code == PromptTooLong.code
            for number in range(3):
                link.send(Open(bytes([number]) * 16, PROMPT, max_tokens=5))
            failure = answer(link, Failure)
            assert (failure.code, failure.session) == (Overloaded.code, b"\2" * 16)
            assert failure.retry_after_ms > 0
            for _ in range(12):
                link.send(Draft(b"\0" * 16, 1, 1, 5, 0, ()))
            failure = answer(link, Failure)
            assert "rounds a second" in failure.message
            assert failure.retry_after_ms > 0
            assert audit("too many rounds")
            # Another device is not concerned.
            other.send(Open(b"o" * 16, PROMPT, max_tokens=5))
            other.send(Draft(b"o" * 16, 1, 1, 5, Ledger(b"o" * 16, PROMPT).digest, ()))
            assert answer(other, Verdict)


# --- what can be overheard --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [True, False])
def test_nothing_of_a_prompt_is_in_the_clear(tmp_path: Path, encrypted: bool) -> None:
    """Without keys the same tap hears everything: so it does listen."""
    from foredraft_shared.wire import Codec

    opening = Open(b"s" * 16, tuple(range(7, 60)), max_tokens=20)
    telling = [b"s" * 16, bytes(opening.prompt[:8]), Codec().encode(opening)[4:40], b"a device of mine"]
    with secured(tmp_path / "data") as service:
        made, _ = service.device("robot")
        keys = KeyPair(made.public_key, made.secret_key)
        plain = ZmqListener() if not encrypted else None
        tap = Tap(plain.address if plain else service.address)
        transport = ZmqTransport(tap.address, secure=client_keys(made.server_key, keys) if encrypted else None)
        link = Link(transport, where="the server", device="a device of mine")
        try:
            if plain is None:
                link.greet(WAIT_S)
                link.send(opening)
                link.send(Draft(opening.session, 1, 1, 53, Ledger(opening.session, opening.prompt).digest, (7, 8, 9)))
                assert answer(link, Verdict)
            else:
                assert transport.ready(WAIT_S)
                transport.send(link._hello)
                transport.send(opening)
                assert plain.receive(WAIT_S)
                assert plain.receive(WAIT_S)
        finally:
            link.close()
            if plain:
                plain.close()
            tap.close()
        assert len(tap.heard) > 500 or not encrypted
        assert [each in tap.heard for each in telling] == [not encrypted] * len(telling)
