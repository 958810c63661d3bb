"""The matrix on paper: ``faults.json`` for programs, ``faults.md`` for people."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foredraft_shared.errors import UsageError
from foredraft_shared.version import version

from ..report import write_atomically
from .verdicts import Row

__all__ = ["SCHEMA", "Report", "machine", "make_folder", "sources"]

SCHEMA = 1
"""Of ``faults.json``; a field that changes its meaning gives a new number."""
_PACKAGES = tuple(f"foredraft_{name}" for name in ("bench", "cloud", "devices", "edge", "protos", "shared"))
_CODE = {".py", ".cpp", ".h"}
GOAL_MS = 1000.0
"""For ``edge_ms`` and ``back_ms``, on a local network."""


def machine() -> dict[str, Any]:
    """What the figures depend on besides the program."""
    processor = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def sources() -> str:
    """A digest of foredraft's own code: rows of another code are no rows of this one, whatever both call themselves."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        found = importlib.util.find_spec(package)
        for folder in map(Path, (found and found.submodule_search_locations) or ()):
            for path in sorted(path for path in folder.rglob("*") if path.suffix in _CODE):
                digest.update(f"{package}/{path.relative_to(folder).as_posix()}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def make_folder(folder: Path) -> None:
    """Make a folder for reports, if it is not there.

    Raises:
        UsageError: that cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error.strerror}; name another folder.") from None


class Report:
    """Rows as they come in, written after each, so that there is always a whole report of what was done.

    Args:
        folder: made if it is not there.
        settings: what the rows depend on. A report that is there already with the same settings, by the same code, but not
            complete, is gone on with.

    Raises:
        UsageError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], *, fresh: bool = False) -> None:
        make_folder(folder)
        self._json = folder / "faults.json"
        self._markdown = folder / "faults.md"
        self._facts: dict[str, Any] = {
            "schema": SCHEMA,
            "foredraft": version(),
            "sources": sources(),
            "settings": settings,
            "machine": machine(),
        }
        self.rows: list[Row] = []
        self.deadlines: dict[str, Any] | None = None
        if not fresh:
            self._take_up()

    def _take_up(self) -> None:
        try:
            before = json.loads(self._json.read_text(encoding="utf-8"))
            same = all(before[name] == self._facts[name] for name in ("schema", "sources", "settings"))
            if same and not before["complete"]:
                self.rows = [Row(**row) for row in before["rows"]]
        except (OSError, ValueError, KeyError, TypeError):
            return  # none, or not one of ours

    def add(self, row: Row) -> None:
        """Take in a row and write the report."""
        self.rows.append(row)
        self.write(complete=False)

    def write(self, *, complete: bool) -> None:
        """Write both files."""
        write_atomically(
            self._json,
            {
                **self._facts,
                "complete": complete,
                "rows": [row.as_json() for row in self.rows],
                "deadlines": self.deadlines,
            },
        )
        self._markdown.write_text(self._text(complete), encoding="utf-8")

    def _text(self, complete: bool) -> str:
        settings, facts = self._facts["settings"], self._facts["machine"]
        right = sum(row.right for row in self.rows)
        lines = [
            "# Fault matrix",
            "",
            f"{right} of {len(self.rows)} texts are what they would have been undisturbed, each token once"
            f"{'' if complete else '; this run was not finished'}.",
            "",
            f"foredraft {self._facts['foredraft']}; target {settings['target']}, draft {settings['draft']}, link "
            f"{settings['link']}, {settings['max_tokens']} tokens, struck after {settings['strike_at']}; "
            f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}, "
            f"load {facts['load_at_start']} at the start.",
            "",
            "*edge* is the time from the moment when the fault is felt (its own, or that of the last verified token that came "
            "in spite of it before) to the first token that the device wrote alone, *back* from healing to the first verified "
            "token, *silence* the longest time without any token from the fault on; milliseconds.",
            "",
            "| fault | sampling | mode | identical | lost | doubled | hung | edge | back | silence | note |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_line(row) for row in self.rows]
        if self.deadlines is not None:
            lines += ["", *_deadline_lines(self.deadlines)]
        return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    cells = [
        row.fault,
        row.sampling,
        row.mode,
        "yes" if row.identical else "**NO**",
        _wrong(row.lost),
        _wrong(row.doubled),
        "**YES**" if row.hung else "no",
        _time(row.edge_ms),
        _time(row.back_ms),
        "–" if row.silence_ms is None else f"{row.silence_ms:.0f}",
        "; ".join(part for part in (row.error, row.note) if part),
    ]
    return f"| {' | '.join(cells)} |"


def _wrong(count: int) -> str:
    return f"**{count}**" if count else "0"


def _time(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "–"
    return f"{milliseconds:.0f}" if milliseconds < GOAL_MS else f"**{milliseconds:.0f}**"


def _deadline_lines(deadlines: dict[str, Any]) -> Sequence[str]:
    lines = [
        "## Deadlines",
        "",
        f"{deadlines['steps']} calls for the next tokens within {deadlines['deadline_ms']:g} ms: {deadlines['late']} returned "
        f"later than {deadlines['deadline_ms'] + deadlines['grace_ms']:g} ms, the latest after {deadlines['worst_ms']:.1f} ms.",
        "",
        "| fault | calls | latest, ms | 99th percentile, ms | brought verified tokens | unverified ones too | none | text |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in deadlines["rows"]:
        right = "right" if row["prefix_right"] and not row["error"] else f"**{row['error'] or 'WRONG'}**"
        lines.append(
            f"| {row['fault']} | {row['steps']} | {row['worst_ms']:.1f} | {row['p99_ms']:.1f} | {row['verified']} | "
            f"{row['unverified']} | {row['empty']} | {right} |"
        )
    return lines
