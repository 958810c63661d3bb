"""Questions for the target: out of files, never out of those it will be measured on, and some that it invents itself."""

from __future__ import annotations

import hashlib
import json
import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foredraft_shared.errors import UsageError
from foredraft_shared.messages import TokenId
from foredraft_shared.models import Tokenizer

__all__ = ["FOLLOW_UPS", "Prompts", "Request", "excluded_hashes", "held_out", "prompt_hash", "read_prompts"]

FOLLOW_UPS = (
    "Can you explain that in more detail?",
    "Why?",
    "Give me an example.",
    "Summarize that in one sentence.",
    "Are you sure? Check it again.",
    "Rewrite your answer so that a child can understand it.",
    "What should I do next?",
    "Now write it as a short list.",
    "Could you make it shorter?",
    "What are the disadvantages?",
    "How would you verify this?",
    "Tell me more about the first point.",
    "Explain step by step how you got there.",
    "Give me three more.",
)
_HOPELESS = 500
"""Inventions in a row without a question: this model cannot invent any, and trying on would never end."""
_ENDS = (".", "!", "?")
_MARKER = "\u2063foredraft\u2063"


def prompt_hash(prompt: str) -> int:
    """64 bits that name a prompt, in any process and version: blake2b of its words, whatever their case and spacing."""
    words = " ".join(prompt.casefold().split())
    return int.from_bytes(hashlib.blake2b(words.encode(errors="replace"), digest_size=8).digest(), "little")


def held_out(key: int, share: float) -> bool:
    """Whether the prompt with this hash is for validation: a fixed ``share`` of all prompts is."""
    return key / 2**64 < share


def read_prompts(path: Path) -> list[str]:
    """The prompts in a file of JSON lines, with ``prompt``, ``question`` or ``turns`` (whose first is taken).

    Raises:
        UsageError: the file cannot be read, holds nothing, or has a line without a prompt; names the line.
    """
    return [texts[0] for texts in _texts(path)]


def excluded_hashes(paths: Iterable[Path]) -> frozenset[int]:
    """Hashes of every prompt, question and turn in files that must not be trained on; raises as :func:`read_prompts`."""
    return frozenset(prompt_hash(text) for path in paths for texts in _texts(path) for text in texts)


def _texts(path: Path) -> list[list[str]]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the prompts {path} ({error}); check the path.") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record: Any = json.loads(line)
        except ValueError:
            record = None
        texts: list[Any] = []
        if isinstance(record, dict):
            turns = record.get("turns")
            texts = [record.get("prompt"), record.get("question"), *(turns if isinstance(turns, list) else ())]
        texts = [text for text in texts if isinstance(text, str) and text.strip()]
        if not texts:
            raise UsageError(
                f'line {number} of {path} has no prompt; write one JSON object a line: {{"prompt": "Why?"}}.'
            )
        found.append(texts)
    if not found:
        raise UsageError(f'{path} holds no prompts; write one JSON object a line, such as {{"prompt": "Why?"}}.')
    return found


@dataclass(frozen=True, slots=True)
class Request:
    """One text that the target is to continue."""

    key: int
    """:func:`prompt_hash` of the first question; 0 while the target is still inventing it."""
    tokens: tuple[TokenId, ...]
    temperature: float
    seed: int
    messages: tuple[dict[str, str], ...] = ()
    """The conversation so far; empty where a question is to be invented."""
    turns_left: int = 0
    """Follow-up questions to ask after this answer."""
    opening: str = ""
    """How the question to be invented begins."""


class Prompts:
    """Hands out what to ask next.

    Args:
        prompts: from files; in random order here.
        never: hashes of prompts that must not be asked.
        done: hashes of prompts that were answered in an earlier run.
        longest: tokens of a prompt; longer ones are passed over.
        invented: share of questions that the target makes up, by continuing the beginning of a user's turn.
        greedy: share of greedy answers; the others are sampled at a temperature between ``temperatures``.
        second_turns: share of conversations with a follow-up question.
        openings: how half of the invented questions begin.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[str],
        *,
        never: frozenset[int] = frozenset(),
        done: frozenset[int] = frozenset(),
        longest: int = 300,
        invented: float = 0.5,
        greedy: float = 0.4,
        temperatures: tuple[float, float] = (0.6, 1.0),
        second_turns: float = 0.15,
        openings: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._never, self._longest = never, longest
        self._invented, self._greedy, self._temperatures = invented, greedy, temperatures
        self._second_turns = second_turns
        self._random = random.Random(seed + len(done))  # a resumed run invents other questions
        fresh = {prompt_hash(prompt): prompt for prompt in prompts}
        self.refused = len(fresh.keys() & never)
        """How many prompts stand in a file that must not be trained on."""
        self.skipped = len((fresh.keys() - never) & done)
        """How many were answered before."""
        self._prompts = [prompt for key, prompt in fresh.items() if key not in never | done]
        self._random.shuffle(self._prompts)
        self._ready: deque[Request] = deque()
        before = tokenizer.chat([{"role": "user", "content": _MARKER}]).partition(_MARKER)[0]
        # Half of them as the target pleases, half with an opening.
        self._beginnings = [(opening, tokenizer.encode(before + opening)) for opening in openings or ("",)]
        self._beginning = tokenizer.encode(before)
        self._tried = 0  # inventions since the last good one

    def next(self) -> Request | None:
        """What to ask now; ``None`` when nothing is left."""
        while not self._ready:
            if self._beginning and self._tried < _HOPELESS and self._random.random() < self._invented:
                self._tried += 1
                if self._random.random() < 0.5:
                    return Request(0, self._beginning, 1.0, self._seed())
                opening, beginning = self._random.choice(self._beginnings)
                return Request(0, beginning, 1.0, self._seed(), opening=opening)
            if not self._prompts:
                return None
            self._ask(self._prompts.pop(), answers=2)
        return self._ready.popleft()

    def invented(self, request: Request, said: str, whole: bool) -> None:
        """The target has made up a question; it is asked soon, unless it is empty or must not be asked.

        Args:
            whole: it came to an end. What did not is asked if it has an opening, up to its last whole sentence: a text to work
                on may end anywhere.
        """
        question = request.opening + said
        if not whole:
            question = question[: max(map(said.rfind, _ENDS)) + len(request.opening) + 1] if request.opening else ""
        if len(question.split()) >= 2 + len(request.opening.split()) and prompt_hash(question) not in self._never:
            self._tried = 0
            self._ask(question.strip(), answers=1)

    def answered(self, request: Request, answer: str) -> None:
        """Ask a follow-up question, where one is due."""
        if request.turns_left and answer.strip():
            follow_up = self._random.choice(FOLLOW_UPS)
            said = [*request.messages, {"role": "assistant", "content": answer}, {"role": "user", "content": follow_up}]
            self._add(request.key, said, request.temperature, request.turns_left - 1)

    def _ask(self, question: str, answers: int) -> None:
        turns = int(self._random.random() < self._second_turns)
        greedy = self._random.random() < self._greedy * answers
        for answer in range(answers):
            temperature = 0.0 if greedy and answer == 0 else round(self._random.uniform(*self._temperatures), 2)
            self._add(prompt_hash(question), [{"role": "user", "content": question}], temperature, turns)

    def _add(self, key: int, messages: list[dict[str, str]], temperature: float, turns: int) -> None:
        tokens = self._tokenizer.encode(self._tokenizer.chat(messages))
        if len(tokens) <= self._longest:
            self._ready.append(Request(key, tokens, temperature, self._seed(), tuple(messages), turns))

    def _seed(self) -> int:
        return self._random.getrandbits(63)
