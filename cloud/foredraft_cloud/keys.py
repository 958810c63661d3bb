"""Who may speak to this server: devices by their public keys, and the tokens with which they enrol.

One SQLite file, read and written by the server and by ``foredraft keys`` at the same time. Nothing in it lets anybody in by
itself: devices keep their secret keys, and of a token only its hash is here. Whatever SQLite cannot do (a full disk, a file
that somebody holds, a damaged one) is a :class:`~foredraft_shared.errors.KeyStoreError`, and has changed nothing.

A token, as an operator hands it to a device, is sixteen random bytes followed by the fingerprint of the server's
certificate, so that the device knows whom to trust before it says the secret part.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from foredraft_shared.errors import EnrolmentRefused, KeyStoreBusy, KeyStoreError, UsageError
from foredraft_shared.private_files import make_private_folder, write_private
from foredraft_shared.transports.curve import is_key

__all__ = ["Device", "KeyStore", "data_folder", "written_token"]

TOKEN_BYTES = 16
MAX_NAME_CHARACTERS = 64
_SEEN_EVERY_S = 60.0
_WAIT_MS = 5000
"""How long to wait for whoever holds the file."""
_SEEN_WAIT_MS = 50
"""The same for a note that nobody needs: meanwhile no other device is let in."""

_TABLES = """
CREATE TABLE IF NOT EXISTS devices (
  public_key TEXT PRIMARY KEY, name TEXT NOT NULL, created REAL NOT NULL, revoked REAL, seen REAL
);
CREATE TABLE IF NOT EXISTS tokens (
  hash TEXT PRIMARY KEY, created REAL NOT NULL, expires REAL NOT NULL, used_by TEXT
);
"""


@dataclass(frozen=True, slots=True)
class Device:
    """A device that is, or was, let in. Times are seconds since 1970."""

    public_key: str
    name: str
    created: float
    revoked: float | None
    seen: float | None
    """When it last connected, to about a minute."""


def data_folder() -> Path:
    """Where a server keeps its keys: ``FOREDRAFT_DATA``, or the user's own data folder (XDG). Not made here."""
    override = os.environ.get("FOREDRAFT_DATA")
    return Path(override).expanduser() if override else user_data_path("foredraft", appauthor=False)


def written_token(secret: bytes, fingerprint: bytes) -> str:
    """A token as people copy it: 64 letters, digits, ``-`` and ``_``; the first is a letter or digit."""
    return base64.urlsafe_b64encode(secret + fingerprint).decode()


class KeyStore:
    """Devices and tokens. For several threads and several processes at once.

    Args:
        folder: made if need be.
        clock: seconds since 1970.

    Raises:
        KeyStoreError: the file cannot be used. So do all methods.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._path = make_private_folder(folder) / "keys.sqlite"
        if not self._path.exists():
            write_private(self._path, b"")
        with self._explained():
            self._connection = sqlite3.connect(
                self._path, timeout=_WAIT_MS / 1000, isolation_level=None, check_same_thread=False
            )
            try:
                self._connection.executescript(_TABLES)
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what an error of SQLite means here, and what to do.

        Told apart by their words and classes: their numbers are known to Python from 3.11 on.
        """
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a mistake of ours
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise KeyStoreBusy(
                    f"another program holds {self._path} ({error}); nothing is wrong with the file: try again in a moment, "
                    "and if that does not help, end what has it open (a backup, sqlite3)."
                ) from error
            if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
                raise KeyStoreError(
                    f"{self._path} cannot be used ({error}); nothing in it was changed: see to room on the disk and to who "
                    "may write there, then try again."
                ) from error
            raise KeyStoreError(
                f"{self._path} is damaged ({error}); stop the server and restore the file, or remove it and enrol every "
                "device anew."
            ) from error

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._explained():
            yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and nobody else in between."""
        with self._lock, self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself has ended it, if the disk was full
                    self._connection.execute("ROLLBACK")
                raise

    # --- devices

    def devices(self) -> list[Device]:
        """All that were ever let in, oldest first."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT public_key, name, created, revoked, seen FROM devices ORDER BY created, name"
            ).fetchall()
        return [Device(*row) for row in rows]

    def admits(self, public_key: str) -> bool:
        """Whether a device with this key may connect now; remembers that it did, if that can be written."""
        with self._reading() as connection:
            row = connection.execute("SELECT revoked, seen FROM devices WHERE public_key = ?", (public_key,)).fetchone()
        if row is None or row[0] is not None:
            return False
        now = self._clock()
        if row[1] is None or now - row[1] > _SEEN_EVERY_S:
            with suppress(KeyStoreError):  # a full disk is no reason to keep a device out
                self._remember(public_key, now)
        return True

    def _remember(self, public_key: str, seen: float) -> None:
        with self._lock, self._explained():
            self._connection.execute(f"PRAGMA busy_timeout = {_SEEN_WAIT_MS}")
            try:
                self._connection.execute("UPDATE devices SET seen = ? WHERE public_key = ?", (seen, public_key))
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {_WAIT_MS}")

    def name_of(self, public_key: str) -> str:
        """What the device of a key is called; empty if there is none."""
        with self._reading() as connection:
            row = connection.execute("SELECT name FROM devices WHERE public_key = ?", (public_key,)).fetchone()
        return str(row[0]) if row else ""

    def revoked(self) -> dict[str, str]:
        """Keys that were let in once and no longer are, and what their devices were called."""
        with self._reading() as connection:
            return dict(connection.execute("SELECT public_key, name FROM devices WHERE revoked IS NOT NULL"))

    def add(self, public_key: str, name: str) -> None:
        """Let a device in.

        Raises:
            UsageError: the key is none, the name is empty, too long or taken, or the key was revoked.
        """
        with self._writing() as connection:
            self._add(connection, public_key, name)

    def _add(self, connection: sqlite3.Connection, public_key: str, name: str) -> None:
        if not is_key(public_key):
            raise UsageError("that is no CURVE public key; one has forty characters (Z85).")
        if not (0 < len(name) <= MAX_NAME_CHARACTERS and name.isprintable() and name == name.strip()):
            raise UsageError(
                f"a device's name has 1 to {MAX_NAME_CHARACTERS} printable characters; give it such a one."
            )
        held = connection.execute("SELECT revoked FROM devices WHERE public_key = ?", (public_key,)).fetchone()
        if held is not None:
            what = "was revoked" if held[0] is not None else "is enrolled already"
            raise UsageError(f"this key {what}; make a new key pair for the device.")
        taken = connection.execute("SELECT 1 FROM devices WHERE name = ? AND revoked IS NULL", (name,)).fetchone()
        if taken is not None:
            raise UsageError(f"a device named {name!r} is enrolled already; revoke it first, or choose another name.")
        connection.execute(
            "INSERT INTO devices (public_key, name, created) VALUES (?, ?, ?)", (public_key, name, self._clock())
        )

    def revoke(self, device: str) -> Device:
        """Let a device in no more; one that is connected is cut off within a second.

        Args:
            device: its name, or its public key, or the first eight characters of that.

        Raises:
            UsageError: no such device is let in.
        """
        with self._writing() as connection:
            row = connection.execute(
                "SELECT public_key, name, created, revoked, seen FROM devices "
                "WHERE (name = ? OR public_key = ? OR substr(public_key, 1, 8) = ?) AND revoked IS NULL",
                (device, device, device),
            ).fetchone()
            if row is None:
                raise UsageError(f"no device {device!r} is enrolled; `foredraft keys list` shows which are.")
            now = self._clock()
            connection.execute("UPDATE devices SET revoked = ? WHERE public_key = ?", (now, row[0]))
        return Device(row[0], row[1], row[2], now, row[4])

    # --- tokens

    def make_token(self, valid_s: float) -> bytes:
        """The secret part of a new token; good for one device, for so many seconds."""
        while (secret := secrets.token_bytes(TOKEN_BYTES))[0] >> 2 >= 62:  # or it would begin like an option
            pass
        now = self._clock()
        with self._writing() as connection:
            connection.execute("DELETE FROM tokens WHERE expires < ?", (now - 30 * 86_400,))
            connection.execute(
                "INSERT INTO tokens (hash, created, expires) VALUES (?, ?, ?)", (_hash(secret), now, now + valid_s)
            )
        return secret

    def enrol(self, secret: bytes, public_key: str, name: str) -> None:
        """Use up a token to let a device in; all of it or nothing. Whoever missed the answer may ask again with its key.

        Raises:
            EnrolmentRefused: the token is unknown, used or expired.
            UsageError: see :meth:`add`; the token stays good.
        """
        ask = "ask the operator for a new one (`foredraft keys token`)."
        with self._writing() as connection:
            row = connection.execute("SELECT expires, used_by FROM tokens WHERE hash = ?", (_hash(secret),)).fetchone()
            if row is None:
                raise EnrolmentRefused(f"this server knows no such enrolment token; {ask}")
            if row[1] == public_key and self._is_let_in(connection, public_key):
                return
            if row[1] is not None:
                raise EnrolmentRefused(f"this enrolment token has been used; each is good for one device: {ask}")
            if row[0] < self._clock():
                raise EnrolmentRefused(f"this enrolment token has expired; {ask}")
            self._add(connection, public_key, name)
            connection.execute("UPDATE tokens SET used_by = ? WHERE hash = ?", (public_key, _hash(secret)))

    @staticmethod
    def _is_let_in(connection: sqlite3.Connection, public_key: str) -> bool:
        row = connection.execute("SELECT revoked FROM devices WHERE public_key = ?", (public_key,)).fetchone()
        return row is not None and row[0] is None


def _hash(secret: bytes) -> str:
    # The secret is random and long: nothing slower than a plain hash is called for.
    return hashlib.sha256(b"foredraft enrolment token:" + secret).hexdigest()
