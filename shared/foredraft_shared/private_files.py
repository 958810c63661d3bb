"""Files that only their owner may read: keys, secrets and what belongs to them."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from .errors import UsageError

__all__ = ["make_private_folder", "read_private", "write_private"]


def make_private_folder(path: Path) -> Path:
    """Make a folder, and those above it that are missing, for the owner's eyes only (0700).

    Raises:
        UsageError: it cannot be made, or belongs to somebody else.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise UsageError(f"cannot keep keys in {path}: {error.strerror}; give a folder of your own.") from None
    return path


def write_private(path: Path, data: bytes) -> None:
    """Write a file (0600) whole or not at all, in a folder made for it (0700).

    Raises:
        UsageError: it cannot be written.
    """
    make_private_folder(path.parent)
    partial = ""
    try:
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600 from the start
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(partial)
        raise UsageError(f"cannot write {path}: {error.strerror}; check the folder and the disk.") from None


def read_private(path: Path) -> bytes:
    """The content of a file that only its owner can read.

    Raises:
        FileNotFoundError: there is none.
        UsageError: others can read it, or we cannot.
    """
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UsageError(f"others on this machine can read {path}; run: chmod 600 '{path}'")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; check who owns it.") from None
