"""The key store, the server's identity, and what one device may ask for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from foredraft_cloud.audit import KNOCKS_S, NO_KEYS, Knocks, printable
from foredraft_cloud.caps import Caps, Turnstile
from foredraft_cloud.identity import certificate, metrics_secret, operator_secret, server_key_pair
from foredraft_cloud.keys import KeyStore, written_token
from foredraft_shared.clock import ManualClock
from foredraft_shared.errors import EnrolmentRefused, KeyStoreError, UsageError
from foredraft_shared.messages import Close, Decode, Failure, Hello, Open, Ping, Resume
from foredraft_shared.private_files import write_private
from foredraft_shared.token_bucket import TokenBucket
from foredraft_shared.transports.base import Peer
from foredraft_shared.transports.curve import is_key, new_key_pair

KEY = new_key_pair().public


class Lines:
    """An audit log that only counts."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.facts: list[dict[str, object]] = []

    def refused(self, what: str, **facts: object) -> None:
        self.refusals.append(what)
        self.facts.append(facts)


def test_a_device_that_knocks_again_and_again_gets_one_line() -> None:
    clock, audit = ManualClock(), Lines()
    knocks = Knocks(audit, clock.now)  # type: ignore[arg-type]
    for _ in range(3):
        knocks.refused("expects another server key")
        knocks.hung_up()  # it asks on a connection of its own what the server wants
    assert audit.refusals == ["expects another server key"]
    knocks.refused(NO_KEYS)
    assert audit.refusals[1:] == [NO_KEYS]
    assert audit.facts[1:] == [{"more": 5}]
    clock.advance(KNOCKS_S)
    knocks.hung_up()
    assert audit.refusals[2:] == [NO_KEYS]


def test_of_many_at_once_one_uses_a_token(tmp_path: Path) -> None:
    first, second = KeyStore(tmp_path), KeyStore(tmp_path)  # two processes, as it were
    secret = first.make_token(60.0)
    refused: list[EnrolmentRefused] = []

    def enrol(store: KeyStore, name: str) -> None:
        try:
            store.enrol(secret, new_key_pair().public, name)
        except EnrolmentRefused as error:
            refused.append(error)

    threads = [threading.Thread(target=enrol, args=((first, second)[i % 2], f"device-{i}")) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 11
    assert len(second.devices()) == 1
    first.close()
    second.close()


def test_a_token_expires(tmp_path: Path) -> None:
    clock = ManualClock()
    store = KeyStore(tmp_path, clock.now)
    secret = store.make_token(60.0)
    clock.advance(61.0)
    with pytest.raises(EnrolmentRefused, match="expired"):
        store.enrol(secret, KEY, "robot")
    store.close()


def test_a_mistake_in_the_name_does_not_cost_the_token(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.add(new_key_pair().public, "robot")
    secret = store.make_token(60.0)
    for name, words in (("robot", "enrolled already"), ("", "characters"), ("a\nb", "characters"), ("x" * 65, "64")):
        with pytest.raises(UsageError, match=words):
            store.enrol(secret, KEY, name)
    with pytest.raises(UsageError, match="no CURVE public key"):
        store.enrol(secret, "x" * 39, "arm")
    store.enrol(secret, KEY, "arm")
    assert store.admits(KEY)
    store.close()


def test_a_revoked_key_never_comes_back_and_its_name_may(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.add(KEY, "robot")
    assert store.revoke("robot").public_key == KEY
    assert not store.admits(KEY)
    assert store.revoked() == {KEY: "robot"}
    with pytest.raises(UsageError, match="was revoked"):
        store.add(KEY, "robot")
    again = new_key_pair().public
    store.add(again, "robot")
    assert store.revoke(again[:8]).public_key == again
    store.close()


def test_tokens_never_begin_like_an_option(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    for _ in range(64):
        assert written_token(store.make_token(60.0), bytes(32))[0].isalnum()
    store.close()


def test_what_is_a_key() -> None:
    assert is_key(KEY)
    for wrong in ("", KEY[:-1], KEY + "a", "é" * 40, " " * 40, "#" * 40, "%nSc0" * 8 + "x"):
        assert not is_key(wrong)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    server_key_pair(tmp_path)
    write_private(tmp_path / "server.key", b"nonsense\n")
    with pytest.raises(UsageError, match=r"server\.key is damaged"):
        server_key_pair(tmp_path)
    certificate(tmp_path)
    write_private(tmp_path / "control.crt", b"nonsense\n")
    with pytest.raises(UsageError, match=r"control\.crt is damaged"):
        certificate(tmp_path)
    write_private(tmp_path / "keys.sqlite", b"nonsense, and no database at all\n" * 40)
    with pytest.raises(KeyStoreError, match=r"keys\.sqlite is damaged"):
        KeyStore(tmp_path)


def test_a_certificates_key_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    whole = certificate(tmp_path / "one")
    other = certificate(tmp_path / "two")
    for key, words in (
        (b"nonsense\n", "is damaged"),
        (b"", "is damaged"),
        (whole.key[:-60], "is damaged"),
        (other.key, "is not the key of"),
    ):
        write_private(tmp_path / "one" / "control.key", key)
        with pytest.raises(UsageError, match=rf"control\.key {words}.*enrol every device anew") as caught:
            certificate(tmp_path / "one")
        assert "\n" not in str(caught.value)
    write_private(tmp_path / "one" / "control.key", whole.key)
    assert certificate(tmp_path / "one") == whole


@pytest.mark.parametrize("secret", [metrics_secret, operator_secret])
def test_a_secret_that_anybody_would_guess_is_refused(secret: Callable[[Path], str], tmp_path: Path) -> None:
    made = secret(tmp_path)
    assert secret(tmp_path) == made
    path = tmp_path / f"{secret.__name__.removesuffix('_secret')}.secret"
    for damaged in (b"", b"\n", b"short\n", b"\xff" * 43, b"two words that are long enough\n"):
        write_private(path, damaged)
        with pytest.raises(UsageError, match=rf"{path.name} is damaged.*remove the file"):
            secret(tmp_path)
    path.unlink()
    assert len(secret(tmp_path)) == 43


def test_a_bucket() -> None:
    clock = ManualClock()
    bucket = TokenBucket(2.0, 4.0, clock.now)
    assert [bucket.take() for _ in range(4)] == [0.0] * 4
    assert bucket.take() == pytest.approx(0.5)
    clock.advance(0.5)
    assert bucket.take() == 0.0
    clock.advance(60.0)
    assert [bucket.take() > 0.0 for _ in range(5)] == [False] * 4 + [True]
    clock.advance(60.0)
    assert bucket.take(3.0) == 0.0
    assert bucket.take(100.0) == pytest.approx(1.5)  # never more than the burst, or it would wait for ever


def test_a_long_text_counts_as_several_rounds() -> None:
    clock, lines = ManualClock(), Lines()
    turnstile = Turnstile(Caps(rounds_per_second=10.0), lines, clock.now)  # type: ignore[arg-type]
    device = Peer(b"1", "one")
    assert turnstile.passes(device, Open(b"s" * 16, (1,) * 512 * 15)) is True
    refusal = turnstile.passes(device, Open(b"t" * 16, (1,) * 512 * 15))
    assert isinstance(refusal, Failure)
    assert refusal.retry_after_ms == pytest.approx(1200, abs=10)
    assert turnstile.passes(device, Decode(b"s" * 16, 1, 1, 1, 0, 1)) is True
    turnstile.forget("one")
    assert (turnstile._rounds, turnstile._messages) == ({}, {})


def test_nobody_brings_a_longer_prompt_than_is_allowed_with_keys_or_without() -> None:
    turnstile = Turnstile(Caps(prompt_tokens=3), Lines())  # type: ignore[arg-type]
    for identity in ("", "one"):
        refusal = turnstile.passes(Peer(b"1", identity), Open(b"s" * 16, (1, 2, 3, 4)))
        assert isinstance(refusal, Failure)
        assert (refusal.code, refusal.session) == ("prompt_too_long", b"s" * 16)


def test_what_a_device_calls_itself_does_not_move_the_cursor() -> None:
    assert printable("arm\x1b[2J\n\u202e7" + "x" * 100) == "arm[2J7" + "x" * 54


def test_limits_are_each_devices_own_and_nobodys_without_keys() -> None:
    clock, lines = ManualClock(), Lines()
    turnstile = Turnstile(Caps(rounds_per_second=1.0, messages_per_second=2.0, prompt_tokens=3), lines, clock.now)  # type: ignore[arg-type]
    decode = Decode(b"s" * 16, 1, 1, 1, 0, 1)
    one, two, anybody = Peer(b"1", "one"), Peer(b"2", "two"), Peer(b"3")
    assert [turnstile.passes(one, decode) is True for _ in range(4)] == [True, True, False, False]
    assert turnstile.passes(two, decode) is True
    assert all(turnstile.passes(anybody, decode) is True for _ in range(50))
    refusal = turnstile.passes(one, decode)
    assert isinstance(refusal, Failure)
    assert refusal.session == decode.session
    assert 0 < refusal.retry_after_ms <= 1000
    assert turnstile.passes(one, Close(b"s" * 16)) is True
    # A device with a new connection is the same device.
    assert isinstance(turnstile.passes(Peer(b"9", "one"), decode), Failure)
    assert [turnstile.passes(two, Ping(1)) for _ in range(5)] == [True] * 4 + [False]
    assert isinstance(turnstile.passes(two, Hello(1, "")), Failure)
    clock.advance(1.0)
    assert turnstile.passes(one, decode) is True
    long = turnstile.passes(two, Resume(b"s" * 16, 2, (1, 2, 3, 4), 4))
    assert isinstance(long, Failure)
    assert long.code == "prompt_too_long"
    assert set(lines.refusals) == {"too many rounds", "too many messages", "prompt too long"}


@pytest.mark.parametrize("rate", [0.1, 0.4, 3.0])
def test_a_device_gets_no_more_rounds_than_it_may_have_however_few_these_are(rate: float) -> None:
    clock = ManualClock()
    turnstile = Turnstile(Caps(rounds_per_second=rate), Lines(), clock.now)  # type: ignore[arg-type]
    passed = 0
    for _ in range(1000):
        passed += turnstile.passes(Peer(b"1", "one"), Decode(b"s" * 16, 1, 1, 1, 0, 1)) is True
        clock.advance(0.1)
    assert passed == pytest.approx(100.0 * rate + max(1.0, 2 * rate), abs=1)
