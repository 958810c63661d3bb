"""What devices have said and the model thread has not read yet: a queue between two threads that cannot grow for ever.

A pass may take long, and devices go on talking meanwhile. What does not fit is refused at once, so that the device waits
and not the server's memory.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable

__all__ = ["Errand", "Inbox"]

Errand = Callable[[], object]
"""Something for the model thread to do."""


class Inbox:
    """Filled by any thread, emptied by one.

    Args:
        per_device: how many errands of one device may wait.
        messages: how many of all devices together.
        tokens: how many tokens those may hold; some 40 bytes each.
    """

    def __init__(self, per_device: int = 64, messages: int = 4096, tokens: int = 2_000_000) -> None:
        self._per_device = per_device
        self._messages = messages
        self._tokens = tokens
        self._changed = threading.Condition()
        self._waiting: list[Errand] = []
        self._waiting_tokens = 0
        self._waiting_of: Counter[Hashable] = Counter()
        self._own: set[Errand] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, device: Hashable, errand: Errand, *, tokens: int = 0) -> bool:
        """Leave what a device asks for; ``False`` if there is no room for it."""
        with self._changed:
            if (
                self._waiting_of[device] >= self._per_device
                or len(self._waiting) >= self._messages
                # One long text always fits where nothing else waits, or it would never be read.
                or (self._waiting_tokens > 0 and self._waiting_tokens + tokens > self._tokens)
            ):
                return False
            self._waiting_of[device] += 1
            self._waiting_tokens += tokens
            self._add(errand)
            return True

    def tell(self, errand: Errand) -> None:
        """Leave an errand of the server's own, which always fits."""
        with self._changed:
            self._add(errand)

    def tell_once(self, errand: Errand) -> None:
        """The same, unless it waits already."""
        with self._changed:
            if errand not in self._own:
                self._own.add(errand)
                self._add(errand)

    def take(self, timeout_s: float) -> list[Errand]:
        """Everything that waits now, oldest first; if that is nothing, wait for something.

        What comes while it is worked through is for the next time: a flood must not keep its reader from the passes.
        """
        with self._changed:
            if not self._waiting and timeout_s > 0.0:
                self._changed.wait(timeout_s)
            taken, self._waiting = self._waiting, []
            self._waiting_tokens = 0
            self._waiting_of.clear()
            self._own.clear()
            return taken

    def _add(self, errand: Errand) -> None:
        self._waiting.append(errand)
        self._changed.notify()
