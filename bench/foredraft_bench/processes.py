"""The cloud as a process of its own: on its own core, told apart from our Ctrl-C, and gone when we are gone.

Whatever happens, nothing is left behind: the process is stopped in ``close``, killed if it does not stop, and dies with
us if we are killed ourselves (:mod:`.tethered`). If it dies first, the one line it said about that becomes our error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

from typing_extensions import Self

from foredraft_shared.errors import ForedraftError, LinkError, UsageError

__all__ = ["CloudProcess", "Cores", "choose_cores", "pin", "stop", "stop_on_termination", "watching"]

_STOP_S = 5.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the two sides compute on; empty where there is no choice."""

    edge: tuple[int, ...] = ()
    cloud: tuple[int, ...] = ()

    def describe(self, side: Literal["edge", "cloud"]) -> str:
        """Where a side computes, in words."""
        cores = self.edge if side == "edge" else self.cloud
        return f"on core {cores[0]}" if cores else "on a core that both share"


def choose_cores(allowed: Sequence[int] | None = None, topology: Path = Path("/sys/devices/system/cpu")) -> Cores:
    """One core for each side, not two threads of the same core if that can be helped.

    Args:
        allowed: core numbers; by default those this process may use.
        topology: where the kernel tells which numbers are threads of one core.
    """
    if allowed is None:
        if sys.platform != "linux":
            return Cores()
        allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return Cores()
    edge = allowed[0]
    threads = _threads_beside(edge, topology)
    cloud = next((core for core in allowed[1:] if core not in threads), allowed[1])
    return Cores((edge,), (cloud,))


def _threads_beside(core: int, topology: Path) -> set[int]:
    try:
        text = (topology / f"cpu{core}" / "topology" / "thread_siblings_list").read_text()
    except OSError:
        return {core}
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found.update(range(int(first), int(last or first) + 1))
    return found


def pin(process: int, cores: Sequence[int]) -> None:
    """Let ``process`` (0: this thread and those it starts) compute on these cores only, where the system can do that."""
    if cores and sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setaffinity(process, cores)


def stop(process: subprocess.Popen[Any], by: signal.Signals = signal.SIGTERM) -> None:
    """End a child and wait for it: asked by a signal first, killed if it takes too long. May be called twice."""
    if process.poll() is None:
        process.send_signal(by)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class CloudProcess:
    """``foredraft serve`` in the background; a context manager.

    Args:
        model: what to serve.
        options: further options of ``foredraft serve``.
        cores: to compute on; empty for any.
        program: the module that is run; another one than ours takes the same arguments.
    """

    def __init__(
        self,
        model: str,
        options: Sequence[str] = (),
        cores: Sequence[int] = (),
        *,
        program: str = "foredraft_bench.tethered",
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="foredraft-", ignore_cleanup_errors=True)
        self._ready = Path(self._folder.name, "ready.json")
        self._said = Path(self._folder.name, "said.log")
        tether = [str(os.getpid()), ",".join(map(str, cores))]
        command = ["serve", model, "--bind", "tcp://127.0.0.1:0", "--ready-file", str(self._ready), *options]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", program, *tether, *command],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,  # Ctrl-C is for us; we stop it in our own order
                env={**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "1000"},
            )
        self.address = ""
        """Where it listens, once :meth:`wait_until_ready` has returned."""
        self.facts: dict[str, Any] = {}
        """All it says of itself, from then on."""
        self.ready_at = 0.0
        """When devices could connect, by ``time.monotonic``."""

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self, timeout_s: float = 600.0) -> None:
        """Wait until devices can connect.

        Raises:
            ForedraftError: it ended instead; with its own reason.
        """
        deadline = time.monotonic() + timeout_s
        while not self._ready.exists():
            if self._process.poll() is not None:
                raise self.failure()
            if time.monotonic() > deadline:
                raise LinkError(f"the cloud was not ready within {timeout_s:g} s; try a smaller --target.")
            time.sleep(_POLL_S)
        self.facts = json.loads(self._ready.read_text())
        self.address = self.facts["address"]
        self.ready_at = time.monotonic() - (time.time() - self._ready.stat().st_mtime)

    def failure(self) -> ForedraftError:
        """Why it ended, when it should not have: the last line it said, or how it died."""
        code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            return LinkError(
                f"the cloud's process was killed ({name}); the machine may be short of memory: try a smaller --target."
            )
        lines = [line.strip() for line in self._said.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line.partition("error:")[2].strip() for line in lines if line.startswith("error:")]
        reason = (errors or lines or ["it said nothing; run `foredraft serve` by itself to see more."])[-1]
        kind = UsageError if code == 2 else LinkError
        return kind(f"the cloud stopped: {reason}")

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self._process.kill()
        self._process.wait()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended; False if it has not in time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """Stop it; may be called twice."""
        stop(self._process, signal.SIGINT)  # SIGTERM would wait for open sessions
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def watching(cloud: CloudProcess, link: int | None = None) -> Iterator[None]:
    """While inside, the death of the cloud or of the process ``link`` raises at once, wherever the main thread is.

    The kernel tells us of a child's end by a signal, which also ends the wait for a message that will never come.
    """

    def look(number: int | None = None, frame: FrameType | None = None) -> None:
        if _ended(cloud.pid):
            raise cloud.failure()
        if link is not None and _ended(link):
            raise LinkError("the link emulator's process has ended; run the command again.")

    before = signal.signal(signal.SIGCHLD, look)
    try:
        look()
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _ended(process: int) -> bool:
    """Whether a child has ended; leaves it for its owner to wait for."""
    try:
        return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def stop_on_termination() -> None:
    """Let SIGTERM and a closed terminal end the program like an exception, so that everything is put away."""

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
