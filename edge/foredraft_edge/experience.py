"""What planners learnt, kept in a file from one process to the next: with which server, target and draft, and how it went.

::

    <cache>/planner.json        or the file that FOREDRAFT_EXPERIENCE names; "none" keeps nothing

A hint, never a promise: what cannot be read, is of another format, too old or makes no sense is as if it were not there, and
what cannot be written is not. Of a server that was never met, what was learnt of the same pair elsewhere is taken, without
times of the other server's.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from foredraft_shared.models.cache import cache_directory

__all__ = ["Experience", "experience_path"]

FORMAT = 1
OLDEST_S = 30 * 86400.0
"""What is older has changed since: the network, the load, the kind of text."""
MOST = 64
"""Entries kept, the newest."""
_LARGEST_BYTES = 1 << 20


def experience_path() -> Path | None:
    """The file, or ``None`` where nothing is to be kept, or where no such place can be."""
    named = os.environ.get("FOREDRAFT_EXPERIENCE", "")
    if named == "none":
        return None
    try:
        return Path(named).expanduser() if named else cache_directory() / "planner.json"
    except RuntimeError:  # the home of a user whom nobody knows
        return None


class Experience:
    """One pair at one server.

    Args:
        server: its address.
        pair: target and draft, with everything that makes them what they are.
    """

    def __init__(self, path: Path, server: str, pair: str) -> None:
        self._path = path
        self._server = server
        self._pair = pair

    def recall(self) -> tuple[Mapping[str, Any], bool]:
        """What was learnt last, as it was kept, and whether with this very server; an empty one if nothing was."""
        known = [entry for entry in self._entries() if entry["pair"] == self._pair]
        here = [entry for entry in known if entry["server"] == self._server]
        newest = max(here or known, key=lambda entry: float(entry["at"]), default=None)
        return (newest["learnt"], bool(here)) if newest is not None else ({}, False)

    def keep(self, learnt: Mapping[str, Any]) -> None:
        """Put it in place of what was learnt before. Of two processes that do so at once, one's is lost."""
        entries = [entry for entry in self._entries() if (entry["server"], entry["pair"]) != (self._server, self._pair)]
        entries.append({"server": self._server, "pair": self._pair, "at": int(time.time()), "learnt": dict(learnt)})
        entries.sort(key=lambda entry: float(entry["at"]))
        data = json.dumps({"format": FORMAT, "entries": entries[-MOST:]}, allow_nan=False)
        partial = ""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, partial = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(data)
            os.replace(partial, self._path)
        except OSError:
            with suppress(OSError):
                os.unlink(partial)

    def _entries(self) -> list[dict[str, Any]]:
        try:
            if self._path.stat().st_size > _LARGEST_BYTES:
                return []
            kept = json.loads(self._path.read_bytes())
            if kept["format"] != FORMAT:
                return []
            json.dumps(kept, allow_nan=False)  # what could not be written again is not believed either
            youngest = time.time()
            return [
                entry
                for entry in kept["entries"]
                if isinstance(entry["learnt"], dict)
                and isinstance(entry["server"], str)
                and isinstance(entry["pair"], str)
                and 0 <= youngest - float(entry["at"]) <= OLDEST_S
            ]
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return []
