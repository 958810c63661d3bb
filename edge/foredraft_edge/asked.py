"""What ``foredraft generate`` and ``foredraft chat`` were asked for, checked before anybody is called."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import get_args

import typer

from foredraft_shared.errors import UsageError

from .client import RequestMode
from .conversation import OnDisconnect

__all__ = ["files_differ", "loss_asked", "mode_asked", "question", "text_alone", "utf8"]


def files_differ(files: Mapping[str, Path | None], written: tuple[str, ...]) -> None:
    """Whatever is written must be a file of its own.

    Args:
        files: by option; ``None`` where it was not given.
        written: the options whose files are written; the others' are read.

    Raises:
        UsageError: two options name one file, and it would be overwritten.
    """
    given = {option: path for option, path in files.items() if path is not None}
    for one, other in combinations(given, 2):
        if (one in written or other in written) and _same(given[one], given[other]):
            raise UsageError(f"{one} and {other} name one file, {given[other]}; give each its own.")


def _same(one: Path, other: Path) -> bool:
    try:
        # A terminal is one file, too, but nothing is lost there.
        return (
            one.samefile(other) and one.is_file()
            if one.exists() and other.exists()
            else one.resolve() == other.resolve()
        )
    except OSError:
        return False


def text_alone(context: typer.Context, *names: str) -> None:
    """A text that was saved goes on as it was begun: what decides of its tokens cannot be given anew.

    Options that stand in the environment or in the configuration file are for texts that begin.

    Raises:
        UsageError: one of the options was written on the command line.
    """
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"--resume goes on with a text as it was begun; leave {option} out.")


def question(prompt: str | None, prompt_file: Path | None) -> str:
    """The question, from wherever it is to come.

    Raises:
        UsageError: it is given twice or not at all, cannot be read, is empty, or is not UTF-8.
    """
    if (prompt is None) == (prompt_file is None):
        raise UsageError("give a prompt, or --prompt-file FILE, and not both.")
    if prompt_file is not None:
        try:
            text = utf8(prompt_file.read_bytes(), str(prompt_file))
        except OSError as error:
            raise UsageError(f"cannot read {prompt_file}: {error.strerror}; check the path.") from None
        where = str(prompt_file)
    elif prompt == "-":
        text, where = utf8(sys.stdin.buffer.read(), "standard input"), "standard input"
    else:
        assert prompt is not None
        text, where = utf8(prompt, "the prompt"), "the prompt"
    if not text.strip():
        raise UsageError(f"{where} is empty; ask something.")
    return text


def utf8(data: bytes | str, where: str) -> str:
    """The text in ``data``; what Python itself has read may hold bytes that are none, as surrogates.

    Raises:
        UsageError: it is not UTF-8.
    """
    data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8 (byte {error.start}); convert it, for example with iconv.") from None


def mode_asked(mode: str) -> RequestMode:
    """Raises UsageError if there is no such mode."""
    if mode not in get_args(RequestMode):
        raise UsageError(f"mode is {mode!r}; choose auto, speculate, cloud or edge.")
    return mode  # type: ignore[return-value]


def loss_asked(what: str) -> OnDisconnect:
    """Raises UsageError if there is no such thing to do."""
    if what not in get_args(OnDisconnect):
        raise UsageError(f"--on-disconnect is {what!r}; choose {', '.join(get_args(OnDisconnect))}.")
    return what  # type: ignore[return-value]
