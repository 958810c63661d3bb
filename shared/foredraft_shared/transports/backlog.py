"""How much a process holds of what has come and nobody has read yet.

Libzmq reads from the network as fast as it comes and does not tell how much waits; its receive queues may have no bound
(see :mod:`.zmq`). But a process that has grown since it last had read everything, and has read much since without coming to
an end, holds a backlog: or something else that takes as much memory in the same moment, and then it costs a reconnection.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from ..clock import Clock

__all__ = ["MAX_BACKLOG_BYTES", "Backlog", "resident_bytes"]

MAX_BACKLOG_BYTES = 256 * 2**20
"""More than a hundred devices say in a second at their fastest; a flood on a fast link takes a second or two for it."""
_LOOK_S = 0.1
_MANY = 64
"""Messages read without coming to an end. Fewer may have come while this process did something else."""


def resident_bytes() -> int:
    """Of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class Backlog:
    """Told when all has been read, asked whether too much waits.

    Args:
        resident: the process's memory, in bytes.
    """

    def __init__(self, clock: Clock, resident: Callable[[], int] = resident_bytes) -> None:
        self._clock = clock
        self._resident = resident
        self._kept_up = True
        self._read = 0
        self._look_at = 0.0
        self._before = 0

    def kept_up(self) -> None:
        """All that had come has been read."""
        self._kept_up = True
        self._read = 0

    def too_large(self) -> bool:
        """A message was read: whether more waits behind it than may. Cheap enough to ask for each one."""
        self._read += 1
        now = self._clock.now()
        if now < self._look_at:
            return False
        self._look_at = now + _LOOK_S
        resident = self._resident()
        if self._kept_up:
            self._kept_up, self._before = False, resident
        return self._read >= _MANY and resident - self._before > MAX_BACKLOG_BYTES

    def freed(self) -> bool:
        """Whether what waited and was thrown away is with the system again; else the next backlog would not be seen to grow."""
        if sys.platform == "linux":
            with suppress(OSError, AttributeError):  # not every C library can
                ctypes.CDLL(None).malloc_trim(0)
        self.kept_up()
        return self._resident() - self._before < MAX_BACKLOG_BYTES // 8
