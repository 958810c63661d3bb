"""A text that outlives its process: a file that says how it began and what has been committed since.

One JSON object a line: the first is the beginning, each other one a commit or a new epoch. Lines are appended and handed
to the system before the caller sees the tokens, so that a killed process has lost nothing that it had shown; a line cut
off in the middle was never shown, and is dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from foredraft_shared.errors import ForedraftError, UsageError
from foredraft_shared.ledger import Ledger
from foredraft_shared.limits import check
from foredraft_shared.messages import FinishReason, Resume, SamplingParams, SessionId, TokenId, Verdict

from .conversation import Journal

__all__ = ["SavedText", "SessionFile", "check_new", "ledger_of", "load_text", "take_up"]

_VERSION = 1


@dataclass(slots=True)
class SavedText:
    """What a file says."""

    session: SessionId
    prompt: tuple[TokenId, ...]
    sampling: SamplingParams
    max_tokens: int
    stop_tokens: tuple[TokenId, ...]
    model: str
    """That the server ran; another one cannot go on with the text."""
    fingerprint: str
    dtype: str
    lossy_exit: int = 0
    """The layer that the server took as final; 0: full depth."""
    epoch: int = 1
    """The highest one used."""
    tokens: list[TokenId] = field(default_factory=list)
    """Committed behind the prompt."""
    finish: FinishReason = ""


class SessionFile:
    """Where a text is kept while it is written. A :class:`~foredraft_edge.loop.Journal`.

    Args:
        text: how it stands. A new text begins the file anew; one taken up again goes on in it.

    Raises:
        UsageError: the file cannot be written.
    """

    def __init__(self, path: Path, text: SavedText, *, begin: bool) -> None:
        self._path = path
        try:
            self._file = open(path, "xb" if begin else "ab", buffering=0)  # noqa: SIM115 - closed by close()
            # The kernel frees it if we are killed. Two that wrote one text would take each other's verdicts for their own.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileExistsError:
            raise UsageError(f"{path} exists; take that text up again (--resume), or give another file.") from None
        except BlockingIOError:
            self._file.close()
            raise UsageError(
                f"another process is writing the text in {path}; let it finish, or stop it first."
            ) from None
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}; give another file.") from None
        self._end = 0
        """Behind the last whole line."""
        if begin:
            try:
                self._append(_beginning(text))
            except UsageError:
                self._file.close()
                path.unlink(missing_ok=True)
                raise
            return
        _drop_cut_line(path)
        self._end = path.stat().st_size
        if load_text(path) != text:
            self._file.close()
            raise UsageError(f"{path} was being written until just now; take it up again.")

    def committed(self, tokens: Sequence[TokenId], finish: FinishReason) -> None:
        """Remember what has become final."""
        self._append({"tokens": list(tokens)} | ({"finish": finish} if finish else {}))

    def epoch(self, epoch: int) -> None:
        """Remember the epoch: the text is taken up in a higher one."""
        self._append({"epoch": epoch})

    def close(self) -> None:
        """May be called twice."""
        self._file.close()

    def _append(self, entry: dict[str, Any]) -> None:
        line, reason = memoryview(_line(entry)), "there is no room"
        try:
            while line and (written := self._file.write(line)):  # a part of it, where there is no room for all
                line = line[written:]
        except OSError as error:
            reason = error.strerror or str(error)
        if line:
            with suppress(OSError):  # or the next line would be glued to the half of this one
                self._file.seek(self._file.truncate(self._end))
            raise UsageError(f"cannot write {self._path}: {reason}; make room there.")
        self._end = self._file.tell()


def check_new(path: Path) -> None:
    """Refuse to begin a text in a file that cannot be made.

    Raises:
        UsageError: it is there already, or nothing can be written beside it.
    """
    if path.exists():
        raise UsageError(f"{path} exists; take that text up again (--resume), or give another file.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        reason = "the folder may not be written" if path.parent.is_dir() else "there is no such folder"
        raise UsageError(f"cannot write {path}: {reason}; give another file.")


def load_text(path: Path) -> SavedText:
    """Read a saved text.

    Raises:
        UsageError: there is no such file, or it is not one.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # behind the last line break: nothing, or a line cut off
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; check the path.") from None
    try:
        entries = [json.loads(line) for line in lines]
        text = _begun(entries[0])
        for entry in entries[1:]:
            if "epoch" in entry:
                text.epoch = max(text.epoch, int(entry["epoch"]))
            else:
                if text.finish:
                    raise ValueError("something stands behind the text's end")
                text.tokens += [int(token) for token in entry["tokens"]]
                text.finish = entry.get("finish", "")
                if text.finish not in Verdict.FINISH_REASONS:
                    raise ValueError(f"finish is {text.finish!r}")
        if len(text.tokens) >= text.max_tokens + bool(text.finish):
            raise ValueError(f"{len(text.tokens)} tokens of {text.max_tokens}, and no end")
        check(_as_message(text))
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
        ForedraftError,
    ) as error:
        raise UsageError(
            f"{path} is not a text saved by foredraft, or it is damaged ({type(error).__name__}: {error}); ask again "
            "without it."
        ) from None
    return text


def ledger_of(text: SavedText) -> Ledger:
    """The ledger of a text as it was left."""
    ledger = Ledger(text.session, text.prompt, text.epoch)
    ledger.extend(text.tokens)
    return ledger


def take_up(ledger: Ledger, journal: Journal, above: int = 0) -> None:
    """Begin the new epoch of a text that is taken up again.

    Even where nothing had been written: the server may be at work on a round of whoever was before us, and its verdict
    must not be taken for one about a round of ours with the same number.

    Args:
        above: the highest epoch that this connection may have used for the same text, whatever its file says: a copy of it
            tells only of those before it was made.
    """
    ledger.raise_epoch(above)
    journal.epoch(ledger.epoch)


def _beginning(text: SavedText) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "session": text.session.hex(),
        "prompt": list(text.prompt),
        "sampling": asdict(text.sampling),
        "max_tokens": text.max_tokens,
        "stop_tokens": list(text.stop_tokens),
        "model": text.model,
        "fingerprint": text.fingerprint,
        "dtype": text.dtype,
    } | ({"lossy_exit": text.lossy_exit} if text.lossy_exit else {})


def _begun(entry: dict[str, Any]) -> SavedText:
    if entry["version"] != _VERSION:
        raise ValueError(f"version {entry['version']!r}, not {_VERSION}")
    return SavedText(
        bytes.fromhex(entry["session"]),
        tuple(int(token) for token in entry["prompt"]),
        SamplingParams(**entry["sampling"]),
        int(entry["max_tokens"]),
        tuple(int(token) for token in entry["stop_tokens"]),
        str(entry["model"]),
        str(entry["fingerprint"]),
        str(entry["dtype"]),
        int(entry.get("lossy_exit", 0)),
    )


def _as_message(text: SavedText) -> Resume:
    """What will be sent: it holds the text to the protocol's ranges."""
    return Resume(
        text.session,
        text.epoch + 1,
        (*text.prompt, *text.tokens),
        len(text.prompt),
        text.sampling,
        text.max_tokens,
        text.stop_tokens,
        lossy_exit=text.lossy_exit,
    )


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def _drop_cut_line(path: Path) -> None:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
