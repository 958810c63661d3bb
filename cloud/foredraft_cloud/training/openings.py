"""Beginnings of questions, for a target that makes up the rest: they steer it to kinds of text it would seldom think of."""

from __future__ import annotations

from pathlib import Path

from foredraft_shared.errors import UsageError

__all__ = ["OPENINGS", "read_openings"]

_LANGUAGES = ("German", "French", "Spanish", "Italian")

OPENINGS = (
    *(f"Translate this {language} text into English:" for language in _LANGUAGES),
    *(f"What does this {language} sentence mean in English?\n\n" for language in _LANGUAGES),
    "Translate to English:\n",
    "Summarize the following article in a few sentences.\n\n",
    "Write a short summary of this text:\n\n",
    "Read this report and list its main points:\n\n",
    "Here is a news story. What is it about?\n\n",
    "Answer the question from the text below.\n\nText:",
    "Given this context, answer the question that follows it.\n\nContext:",
    "Using only these three passages, answer my question.\n\nPassage 1:",
    "Who was the first",
    "When did the",
    "In which country",
    "What is the name of",
    "How many",
    "Why do",
    "What is the difference between",
    "Explain how",
    "Explain to a beginner what",
    "Solve this step by step:",
    "A shop sells",
    "If a train",
    "Find the value of",
    "What is the probability that",
    "Write a Python function that",
    "Write a program that",
    "Find the mistake in this code:\n\n",
    "Write a short story about",
    "Write an email to",
    "Write a blog post about",
    "Describe",
    "Imagine you are",
    "Pretend to be",
    "Act as",
    "Suppose that",
    "Extract the names and dates from this text:\n\n",
    "Sort the following reviews into good and bad ones.\n\n",
    "Edit this paragraph and correct its grammar:\n\n",
    "Discuss the causes and effects of",
    "Compare",
    "Give me ideas for",
    "Should I",
)
"""One for each kind of thing that people ask an assistant, in several wordings."""


def read_openings(path: Path) -> tuple[str, ...]:
    """The lines of a file, in which ``\\n`` stands for the end of a line.

    Raises:
        UsageError: the file cannot be read, or has no line.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the openings {path} ({error}); check the path.") from None
    found = tuple(line.replace("\\n", "\n") for line in lines if line.strip())
    if not found:
        raise UsageError(f"{path} holds no openings; write the beginning of a question a line, such as Explain how")
    return found
