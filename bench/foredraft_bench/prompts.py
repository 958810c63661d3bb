"""The prompts of a demonstration or a benchmark: built in, or from a file of JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foredraft_shared.errors import UsageError

__all__ = ["DEMONSTRATION", "WARM_UP", "read_prompts"]

DEMONSTRATION = (
    "What is the capital of France, and what is it known for?",
    "List five things to pack for a week of hiking.",
    "Explain in a few sentences why the sky is blue.",
)
"""A fact, a list and an explanation: easy, regular and free text are drafted with different success."""
WARM_UP = "Say hello."


def read_prompts(path: Path) -> list[str]:
    """The prompts in a file: one JSON object a line, with ``prompt`` or ``turns`` (whose first is taken).

    Empty lines are passed over.

    Raises:
        UsageError: the file cannot be read, or has no prompts, or a line of it is not one; names the line.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"cannot read the prompts {path}: {error.strerror}; check --prompts.") from None
    prompts = [_prompt(line, f"line {number} of {path}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise UsageError(f'{path} holds no prompts; write one JSON object a line, such as {{"prompt": "Why?"}}.')
    return prompts


def _prompt(line: bytes, where: str) -> str:
    try:
        text = line.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{where} is not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8, for example with iconv."
        ) from None
    try:
        record: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise UsageError(
            f'{where} is not JSON ({reason}); write one object a line, such as {{"prompt": "Why?"}}.'
        ) from None
    prompt = _chosen(record)
    if not isinstance(prompt, str) or not prompt.strip():
        raise UsageError(
            f'{where} has no question; give it "prompt": a text, or "turns": a list that begins with a text.'
        )
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{where} holds half a character (a lone surrogate); write that character whole.") from None
    return prompt


def _chosen(record: Any) -> Any:
    if not isinstance(record, dict):
        return None
    if "prompt" in record:
        return record["prompt"]
    turns = record.get("turns")
    return turns[0] if isinstance(turns, list) and turns else None
