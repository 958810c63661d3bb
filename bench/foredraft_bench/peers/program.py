"""The process of a peer: reads orders from its standard input, a line of JSON each, and answers with a line.

``python -m foredraft_bench.peers.program PARENT CORES SET``, the first two as for :mod:`foredraft_bench.tethered`; SET is
JSON. The first line that it writes is ``{}``, or ``{"error": …}`` if the engine cannot run here.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..tethered import tie

if TYPE_CHECKING:
    from .engines import Engine, Order

__all__ = ["main"]


def main() -> int:
    parent, cores, given = sys.argv[1:]
    if not tie(parent, cores):
        return 1
    # Only our lines go to the pipe; what a library prints goes where its complaints go.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(told: dict[str, Any]) -> None:
        answers.write(json.dumps(told) + "\n")
        answers.flush()

    from .engines import ENGINES, Order, Set

    settings = Set(**json.loads(given))
    try:
        write = ENGINES[settings.engine](settings)
    except Exception as error:  # whatever another program fails with is why it is left out
        say({"error": str(error) or type(error).__name__})
        return 1
    say({})
    for line in sys.stdin:
        say(_timed(write, Order(**json.loads(line))))
    return 0


def _timed(write: Engine, order: Order) -> dict[str, Any]:
    tokens: list[int] = []
    arrived_ms: list[float] = []
    began = time.perf_counter()

    def told(fresh: Sequence[int]) -> None:
        tokens.extend(fresh)
        arrived_ms.extend([(time.perf_counter() - began) * 1e3] * len(fresh))

    write(order, told)
    return {"tokens": tokens, "arrived_ms": arrived_ms}


if __name__ == "__main__":
    sys.exit(main())
