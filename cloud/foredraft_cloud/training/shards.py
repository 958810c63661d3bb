"""The folder of a collection: shards of answers as npz files, and a note of what they are.

A shard holds, for its texts one after another: ``tokens`` uint32 (prompt and answer), ``lengths`` int32, ``starts`` int32
(where the answer begins; it goes to the end), ``keys`` uint64 (hash of the first question), ``temperatures`` float32,
``seeds`` int64; and for every answered token ``top_ids`` uint32 [K] and ``top_log_probabilities`` float16 [K], the target's
most probable tokens there, at temperature 1. Nothing is pickled.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.errors import ModelDamaged, UsageError
from foredraft_shared.messages import TokenId
from foredraft_shared.models import Model
from foredraft_shared.models.artifacts import target_fingerprint

__all__ = ["Shards", "Text", "read_texts"]

_FORMAT = 1
_NOTE = "collection.json"
_ARRAYS = ("tokens", "lengths", "starts", "keys", "temperatures", "seeds", "top_ids", "top_log_probabilities")


@dataclass(eq=False, slots=True)
class Text:
    """A prompt and the target's answer to it; N tokens, the last M of them answered."""

    tokens: NDArray[np.int64]  # [N]
    start: int
    """Where the answer begins: N - M."""
    top_ids: NDArray[np.int64]  # [M, K]
    top_log_probabilities: NDArray[np.float32]  # [M, K]
    temperature: float
    seed: int
    key: int

    @property
    def answered(self) -> int:
        return len(self.tokens) - self.start


class Shards:
    """Writes a collection, and knows what an earlier run has written there.

    Args:
        dtype: the arithmetic that the answers are computed in.

    Raises:
        UsageError: the folder holds the answers of another model, or in another arithmetic.
        ModelDamaged: a shard in it cannot be read.
    """

    def __init__(self, folder: Path, model: Model, size: int = 20_000, *, dtype: str = "bfloat16") -> None:
        self.folder, self._size = folder, size
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / _NOTE
        facts = {
            "format": _FORMAT,
            "target": Path(model.name).name,
            "target_fingerprint": target_fingerprint(model),
            "dtype": dtype,
        }
        if note.exists():
            check_note(folder, model, dtype)
        else:
            partial = note.with_suffix(".partial")
            partial.write_text(json.dumps(facts, indent=1))
            partial.replace(note)
        self.answered = 0
        """Answered tokens on disk."""
        keys: set[int] = set()
        for path in shard_paths(folder):
            stored = _load(path)
            keys.update(map(int, stored["keys"]))
            self.answered += len(stored["top_ids"])
        self.done = frozenset(keys)
        """Hashes of the prompts answered by earlier runs."""
        self._held: list[Text] = []

    def add(self, text: Text) -> None:
        """Keep a finished text; writes a shard when there are enough."""
        self._held.append(text)
        if sum(each.answered for each in self._held) >= self._size:
            self.flush()

    def flush(self) -> None:
        """Write what is held as a shard, all of it or nothing; what could not be written is still held."""
        if not self._held:
            return
        held = self._held
        numbers = [int(path.stem.removeprefix("shard")) for path in shard_paths(self.folder)]
        path = self.folder / f"shard{max(numbers, default=-1) + 1:05}.npz"
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                np.savez(
                    file,
                    tokens=np.concatenate([text.tokens for text in held]).astype(np.uint32),
                    lengths=np.array([len(text.tokens) for text in held], np.int32),
                    starts=np.array([text.start for text in held], np.int32),
                    keys=np.array([text.key for text in held], np.uint64),
                    temperatures=np.array([text.temperature for text in held], np.float32),
                    seeds=np.array([text.seed for text in held], np.int64),
                    top_ids=np.concatenate([text.top_ids for text in held]).astype(np.uint32),
                    top_log_probabilities=np.concatenate([text.top_log_probabilities for text in held]).astype(
                        np.float16
                    ),
                )
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()  # it may be what the disk has no room for
            raise
        self._held = []
        self.answered += sum(text.answered for text in held)


def shard_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard*.npz"))


def check_note(folder: Path, model: Model, dtype: str | None = None) -> None:
    """Make sure that the collection is of ``model``'s answers, in the arithmetic ``dtype``.

    Args:
        dtype: ``None`` for any.

    Raises:
        UsageError: there is none, or it is another model's, or in another arithmetic.
    """
    try:
        note = json.loads((folder / _NOTE).read_text())
        if not isinstance(note, dict):
            raise ValueError("it is no table")
    except (OSError, ValueError):
        raise UsageError(
            f"{folder} holds no collection; make one with `foredraft train collect --out {folder}`."
        ) from None
    if note.get("format") != _FORMAT or note.get("target_fingerprint") != target_fingerprint(model):
        raise UsageError(
            f"{folder} holds the answers of {note.get('target')}, not of {model.name}; take another folder."
        )
    made = note.get("dtype", dtype)  # older collections do not say
    if dtype is not None and made != dtype:
        raise UsageError(f"{folder} holds answers in {made}, which are not those in {dtype}; take another folder.")


def read_texts(folder: Path, model: Model) -> list[Text]:
    """Every text of a collection.

    Raises:
        UsageError: it is empty, or another model's.
        ModelDamaged: a shard cannot be read.
    """
    check_note(folder, model)
    texts = []
    for path in shard_paths(folder):
        stored = _load(path)
        end = row = 0
        for index, (length, start) in enumerate(
            zip(stored["lengths"].tolist(), stored["starts"].tolist(), strict=True)
        ):
            tokens: NDArray[np.int64] = stored["tokens"][end : end + length].astype(np.int64)
            rows = slice(row, row + length - start)
            texts.append(
                Text(
                    tokens,
                    start,
                    stored["top_ids"][rows].astype(np.int64),
                    stored["top_log_probabilities"][rows].astype(np.float32),
                    float(stored["temperatures"][index]),
                    int(stored["seeds"][index]),
                    int(stored["keys"][index]),
                )
            )
            end, row = end + length, rows.stop
    if not texts:
        raise UsageError(f"{folder} holds no texts yet; run `foredraft train collect --out {folder}` for longer.")
    return texts


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            stored = {name: file[name] for name in _ARRAYS}
        lengths, starts = stored["lengths"].astype(np.int64), stored["starts"].astype(np.int64)
        if not all(len(stored[name]) == len(lengths) for name in ("starts", "keys", "temperatures", "seeds")):
            raise ValueError("it says different things of how many texts it holds")
        if not ((starts > 0) & (starts < lengths)).all() or lengths.sum() != len(stored["tokens"]):
            raise ValueError("it says what cannot be of where its texts begin")
        tops = stored["top_ids"].shape, stored["top_log_probabilities"].shape
        if tops[0] != tops[1] or len(tops[0]) != 2 or tops[0][0] != (lengths - starts).sum():
            raise ValueError("its answers and what was nearly said do not match")
        return stored
    except (OSError, ValueError, TypeError, EOFError, KeyError, BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise ModelDamaged(f"{path} cannot be read ({reason}); delete it and collect again.") from None


def text_of(
    tokens: list[TokenId],
    start: int,
    top_ids: list[NDArray[np.int64]],
    top_log_probabilities: list[NDArray[np.float32]],
    temperature: float,
    seed: int,
    key: int,
) -> Text:
    """A finished text, from the lists that grew with it."""
    return Text(
        np.array(tokens, np.int64), start, np.stack(top_ids), np.stack(top_log_probabilities), temperature, seed, key
    )
