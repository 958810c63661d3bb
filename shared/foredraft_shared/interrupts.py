"""Holding back Ctrl-C for a moment, where it would do more than stop us."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["interrupts_wait"]


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C is noticed after the block; processes started inside never notice it.

    For what takes an interrupt for something else: a package whose import fails "because it is not installed", say.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield  # Python tells the main thread only
        return
    noticed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noticed.append(number)

    # The mask is what new processes inherit; the handler is for our other threads, which do not heed our mask.
    handler = signal.signal(signal.SIGINT, note)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if noticed:
            signal.raise_signal(signal.SIGINT)
