"""What a key store that cannot be read or written does: nobody is let in who should not be, and nothing stays broken."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from own_process import run_script
from secured_world import soon

from foredraft_cloud import access as door
from foredraft_cloud import keys
from foredraft_cloud.access import Access
from foredraft_cloud.keys import KeyStore
from foredraft_shared.clock import ManualClock
from foredraft_shared.command import main
from foredraft_shared.errors import KeyStoreBusy, KeyStoreError
from foredraft_shared.private_files import write_private
from foredraft_shared.transports.curve import new_key_pair

pytestmark = pytest.mark.timeout(60)
KEY = new_key_pair().public


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for five seconds."""
    monkeypatch.setattr(keys, "_WAIT_MS", 50)


@contextmanager
def held(folder: Path, how: str) -> Iterator[None]:
    """Another program has the file open in a transaction."""
    with closing(sqlite3.connect(folder / "keys.sqlite", isolation_level=None)) as other:
        other.execute(how)
        other.execute("SELECT * FROM devices").fetchall()
        yield
        other.execute("ROLLBACK")


def test_who_reads_for_long_keeps_a_token_back_but_not_the_next_one(tmp_path: Path) -> None:
    with closing(KeyStore(tmp_path)) as store:
        with held(tmp_path, "BEGIN"), pytest.raises(KeyStoreBusy, match="another program holds"):
            store.make_token(60.0)
        store.enrol(store.make_token(60.0), KEY, "robot")
        assert store.admits(KEY)
        with closing(KeyStore(tmp_path)) as other:
            other.make_token(60.0)


def test_a_device_is_let_in_though_it_cannot_be_noted_when_it_came(tmp_path: Path) -> None:
    clock = ManualClock()
    with closing(KeyStore(tmp_path, clock.now)) as store:
        store.add(KEY, "robot")
        with held(tmp_path, "BEGIN IMMEDIATE"):
            begun = time.monotonic()
            assert store.admits(KEY)
            assert time.monotonic() - begun < 2.0
            assert store.devices()[0].seen is None
        assert store.admits(KEY)
        assert store.devices()[0].seen == clock.now()


FULL = """
import resource
from pathlib import Path
from foredraft_cloud.keys import KeyStore
from foredraft_shared.errors import KeyStoreError
from foredraft_shared.transports.curve import new_key_pair
now = [1e9]
store, key = KeyStore(Path({folder!r}), lambda: now[0]), new_key_pair().public
store.add(key, "robot")
assert store.admits(key)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
now[0] += 1000.0
assert store.admits(key), "an enrolled device is let in"
for change in (lambda: store.make_token(60.0), lambda: store.revoke("robot"), lambda: store.add(new_key_pair().public, "arm")):
    try:
        change()
        raise AssertionError("it was written")
    except KeyStoreError as error:
        assert "nothing in it was changed" in str(error), error
assert store.admits(key)
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
store.make_token(60.0)
store.revoke("robot")
assert not store.admits(key)
"""


def test_a_full_disk_refuses_what_must_be_written_and_nothing_else(tmp_path: Path) -> None:
    done = run_script(FULL.format(folder=str(tmp_path)))
    assert done.returncode == 0, done.stderr


def test_commands_tell_a_file_that_is_held_from_one_that_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    KeyStore(tmp_path).close()

    def said(*words: str) -> str:
        assert main(("keys", *words, "--data", str(tmp_path))) == 1
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        return line

    with held(tmp_path, "BEGIN EXCLUSIVE"):
        for words in (("list",), ("token",), ("revoke", "robot")):
            line = said(*words)
            assert "another program holds" in line
            assert "remove" not in line
    with held(tmp_path, "BEGIN"):
        assert "another program holds" in said("token")
    write_private(tmp_path / "keys.sqlite", b"nonsense, and no database at all\n" * 40)
    assert "is damaged" in said("list")


# --- the door


class Lines:
    """An audit log that keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def refused(self, what: str, **facts: object) -> None:
        self.said.append(what)

    done = refused


class Store(KeyStore):
    """One whose file can be lost sight of."""

    error: Exception | None = None

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        if self.error is not None:
            raise self.error
        with super()._reading() as connection:
            yield connection


@contextmanager
def guarded(folder: Path) -> Iterator[tuple[Access, Store, Lines]]:
    store, lines = Store(folder), Lines()
    store.add(KEY, "robot")
    try:
        with Access(store, new_key_pair(), lines) as access:  # type: ignore[arg-type]
            yield access, store, lines
    finally:
        store.close()


def callback(access: Access) -> bool:
    return access.callback("domain", KEY.encode())


@pytest.mark.parametrize(
    "error", [KeyStoreBusy("held"), KeyStoreError("damaged"), sqlite3.OperationalError("whatever")]
)
def test_nobody_comes_in_while_the_store_cannot_be_read_and_is_told_to_come_again(
    tmp_path: Path, error: Exception
) -> None:
    with guarded(tmp_path) as (access, store, lines):
        assert callback(access)
        store.error = error
        assert not callback(access)
        assert access._authenticator.for_now
        store.error = None
        assert callback(access)
        assert not access._authenticator.for_now
        store.revoke("robot")
        assert not callback(access)
        assert not access._authenticator.for_now
        assert lines.said == ["the key store cannot be read", "revoked"]


def test_revocations_are_found_after_the_store_could_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_LOOK_EVERY_S", 0.01)
    found: list[frozenset[str]] = []
    with guarded(tmp_path) as (access, store, lines):
        access.watch(found.append)
        store.error = sqlite3.OperationalError("disk I/O error")
        assert soon(lambda: lines.said)
        time.sleep(0.1)
        assert access.admits(KEY)
        store.revoke("robot")
        store.error = None
        assert soon(lambda: found)
        assert found == [{KEY}]
        assert not access.admits(KEY)
        assert lines.said == ["the key store cannot be read", "the key store can be read again", "revoked", "revoked"]


@pytest.mark.parametrize(("error", "speaks"), [(KeyStoreBusy("held"), True), (KeyStoreError("damaged"), False)])
def test_nobody_speaks_for_long_who_cannot_be_told_from_one_that_was_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, speaks: bool
) -> None:
    monkeypatch.setattr(door, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(door, "_BLIND_S", 0.5)
    with guarded(tmp_path) as (access, store, lines):
        access.watch(lambda keys: None)
        assert access.admits(KEY)
        store.error = error
        time.sleep(1.5)
        assert access.admits(KEY) is speaks
        store.error = None
        assert soon(lambda: "the key store can be read again" in lines.said)
        assert access.admits(KEY)
        assert ("everybody, until the key store can be read" in lines.said) is not speaks


def test_who_is_revoked_is_refused_without_a_look_into_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_LOOK_EVERY_S", 0.01)
    with guarded(tmp_path) as (access, store, _):
        found = threading.Event()
        access.watch(lambda keys: found.set())
        store.revoke("robot")
        assert found.wait(10.0)
        store.error = sqlite3.OperationalError("disk I/O error")
        assert not access.admits(KEY)
