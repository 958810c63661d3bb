"""A foredraft command as a process that cannot outlive the program which started it.

``python -m foredraft_bench.tethered PARENT CORES COMMAND…`` runs ``foredraft COMMAND…`` on the given cores (numbers with
commas between, or nothing for all) and dies with the process PARENT, even if that is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["main", "tie"]

_PR_SET_PDEATHSIG = 1


def tie(parent: str, cores: str) -> bool:
    """Let this process die with ``parent`` and compute on ``cores``; False if the parent has gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it went before the kernel knew that we wanted to hear of it
            return False
        if cores:
            # Before torch is imported: it counts the cores it may use, and its threads inherit them.
            os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    return True


def main() -> int:
    parent, cores, *arguments = sys.argv[1:]
    if not tie(parent, cores):
        return 1
    from foredraft_shared.command import main as foredraft

    return foredraft(arguments)


if __name__ == "__main__":
    sys.exit(main())
