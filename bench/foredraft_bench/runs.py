"""The order in which a comparison runs its modes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["in_time", "schedule"]


def schedule(prompts: int, modes: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Prompt by prompt, each in every mode; who begins takes turns, so that a machine that warms up or is disturbed for a
    while treats all alike."""
    for prompt in range(prompts):
        turn = prompt % len(modes)
        for mode in (*modes[turn:], *modes[:turn]):
            yield prompt, mode


def in_time(
    turns: Iterable[tuple[int, str]], until: float, clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[int, str]]:
    """The turns of :func:`schedule` as far as there is time: a prompt is answered in all modes or in none.

    Args:
        until: by ``clock``. The first prompt is always answered, another if it would be done by then, should it take as long
            as the longest before it.
    """
    current, began, longest_s = None, clock(), 0.0
    for prompt, mode in turns:
        if prompt != current:
            now = clock()
            longest_s = max(longest_s, now - began)
            if current is not None and now + longest_s > until:
                return
            current, began = prompt, now
        yield prompt, mode
