"""The link emulator in a process of its own, so that nobody's computing makes it late.

Commands and answers are lines of JSON over the child's standard input and output. The child ends when its input does,
so it cannot outlive the program that wanted it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import errors
from ..errors import ForedraftError, LinkError
from .link import LinkStatistics, open_relay, recording_from, settings_from
from .relay import LinkSettings, Relay

__all__ = ["LinkProcess"]


class LinkProcess:
    """A :class:`foredraft_shared.transports.link.LinkEmulator` in another process: the same arguments and methods."""

    def __init__(
        self,
        to: str,
        listen: str = "127.0.0.1:0",
        *,
        recording: Path | str | None = None,
        **settings: float | None,
    ) -> None:
        # Complain here rather than there.
        if recording is not None:
            recording_from(recording, **settings)
        else:
            settings_from(**settings)
        wanted = {"to": to, "listen": listen, "recording": recording and str(recording), "settings": settings}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._one_at_a_time = threading.Lock()
        try:
            self.address: str = self._answer()["address"]
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def change(self, **settings: float | None) -> None:
        self._ask("change", settings=settings)

    def black_hole(self, *, hold: bool = False) -> None:
        self._ask("open_hole", hold=hold)

    def heal(self) -> None:
        self._ask("heal")

    def stall(self, seconds: float) -> None:
        self._ask("stall", seconds=seconds)

    def reset(self) -> None:
        self._ask("reset")

    def half_open(self) -> None:
        self._ask("half_open")

    def statistics(self) -> LinkStatistics:
        return LinkStatistics(**self._ask("statistics"))

    def close(self) -> None:
        """Close every connection and stop; may be called twice."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(OSError):  # a command that an ended process never read
                    pipe.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> LinkProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        with self._one_at_a_time:
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
                self._process.stdin.flush()
            except (OSError, ValueError):
                raise LinkError("the link emulator's process has ended; make a new one.") from None
            return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LinkError("the link emulator's process has ended; make a new one.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = getattr(errors, answer["error"], LinkError)
            raise kind(answer["message"])
        return answer


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def _obey(relay: Relay, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Have the relay's thread do it; the answer once it is done."""
    if command == "change":
        settings = settings_from(**{**dataclasses.asdict(relay.settings), **arguments["settings"]})
        arguments = {"settings": settings}
    done = threading.Event()

    answer: dict[str, Any] = {}

    def obey() -> None:
        if command == "statistics":
            answer.update(dataclasses.asdict(relay.statistics()))
        else:
            getattr(relay, command)(**arguments)
        done.set()

    relay.call(obey)
    done.wait(5.0)
    return answer


def _read_commands(relay: Relay) -> None:
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            _say(_obey(relay, arguments.pop("do"), arguments))
        except ForedraftError as error:
            _say({"error": type(error).__name__, "message": str(error)})
        except BrokenPipeError:
            break
    relay.call(relay.stop)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; our owner decides what it means
    wanted = json.loads(sys.argv[1])
    try:
        settings, file = wanted["settings"], wanted["recording"]
        played = recording_from(file, **settings) if file else None
        base = LinkSettings() if file else settings_from(**settings)
        relay, address = open_relay(wanted["to"], wanted["listen"], base, played)
    except ForedraftError as error:
        _say({"error": type(error).__name__, "message": str(error)})
        return
    signal.signal(signal.SIGTERM, lambda *_: relay.call(relay.stop))
    _say({"address": address})
    threading.Thread(target=_read_commands, args=(relay,), daemon=True).start()
    relay.run()


if __name__ == "__main__":
    _main()
