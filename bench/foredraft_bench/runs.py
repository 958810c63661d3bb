"""The order in which a comparison runs its modes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["schedule"]


def schedule(prompts: int, modes: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Prompt by prompt, each in every mode; who begins takes turns, so that a machine that warms up or is disturbed for a
    while treats all alike."""
    for prompt in range(prompts):
        turn = prompt % len(modes)
        for mode in (*modes[turn:], *modes[:turn]):
            yield prompt, mode
