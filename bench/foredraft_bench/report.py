"""What a comparison of modes comes to: whether they wrote the same, a table for people, a JSON file for programs."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from foredraft_shared.errors import UsageError

from .metrics import Answer, Figures, add_up, parting

__all__ = ["Difference", "as_json", "check_writable", "first_difference", "table", "write_atomically"]

Answers = Mapping[str, Sequence[Answer]]
"""By mode, one a prompt, in the order of the prompts."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two modes part; a token that is ``None`` is where one text has ended."""

    prompt: int
    """Index of the prompt."""
    position: int
    """Index of the token in the answer."""
    modes: tuple[str, str]
    tokens: tuple[int | None, int | None]

    def describe(self, spell: Callable[[int], str]) -> str:
        """The difference in words; ``spell`` gives the text of a token."""
        said = [
            f"{mode} {'ended' if token is None else f'wrote {spell(token)!r} ({token})'}"
            for mode, token in zip(self.modes, self.tokens, strict=True)
        ]
        return f"prompt {self.prompt + 1}, token {self.position + 1}: {said[0]}, {said[1]}"


def first_difference(answers: Answers) -> Difference | None:
    """The first place where a mode's tokens are not those of the first mode; ``None`` if all are identical."""
    (reference, expected), *others = answers.items()
    for prompt, answer in enumerate(expected):
        for name, theirs in others:
            one, other = answer.tokens, theirs[prompt].tokens
            if one == other:
                continue
            position = parting(one, other)
            tokens = tuple(text[position] if position < len(text) else None for text in (one, other))
            return Difference(prompt, position, (reference, name), (tokens[0], tokens[1]))
    return None


def as_json(answers: Answers, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The whole comparison; the fields of :class:`~foredraft_bench.metrics.Figures` stand beside each mode's tokens."""
    modes = []
    cloud = add_up(answers["cloud"]).ms_per_token if "cloud" in answers else None
    for name, given in answers.items():
        figures = add_up(given)
        modes.append(
            {
                "name": name,
                **dataclasses.asdict(figures),
                "speed_up": _speed_up(figures, cloud),
                "tokens": [list(answer.tokens) for answer in given],
                "finish": [answer.finish for answer in given],
                "texts": [answer.text for answer in given],
                "arrived_ms": [[round(instant, 3) for instant in answer.arrived_ms] for answer in given],
            }
        )
    return {"identical": first_difference(answers) is None, "settings": dict(settings), "modes": modes}


def check_writable(path: Path) -> None:
    """Complain now rather than after the work.

    Raises:
        UsageError: a file could not be written there.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}; make it first.")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write {path}: you may not write to {path.parent}; name another folder.")


def write_atomically(path: Path, report: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Write JSON so that whoever reads ``path`` sees the old file or the whole new one.

    Raises:
        UsageError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(report, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror}; name a file in a folder you may write to.") from None


def table(answers: Answers, titles: Mapping[str, str]) -> Table:
    """The figures of all modes, narrow enough for 80 columns."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    shown.add_column("", no_wrap=True)
    for heading in (
        "ms per\ntoken", "first\ntoken", "p95\ngap", "accepted\n/ round", "bytes\n/ token", "passes\n/ token", "speed-up",
    ):  # fmt: skip
        shown.add_column(heading, justify="right", no_wrap=True)
    cloud = add_up(answers["cloud"]).ms_per_token if "cloud" in answers else None
    for name, given in answers.items():
        figures = add_up(given)
        speed_up = _speed_up(figures, cloud)
        fast = "bold green" if speed_up is not None and speed_up > 1.0 else ""
        shown.add_row(
            titles[name],
            _number(figures.ms_per_token, 1),
            _number(figures.ttft_ms, 0),
            _number(figures.p95_gap_ms, 1),
            _number(figures.accepted_per_round, 2) if name != "cloud" else "–",
            _number(figures.bytes_per_token, 1),
            _number(figures.cloud_passes_per_token, 2),
            f"{speed_up:.2f}×" if speed_up is not None else "–",
            style=fast,
        )
    return shown


def _speed_up(figures: Figures, cloud_ms: float | None) -> float | None:
    """How many times faster than the cloud alone, by ms per token in the same run."""
    return cloud_ms / figures.ms_per_token if cloud_ms and figures.ms_per_token else None


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
