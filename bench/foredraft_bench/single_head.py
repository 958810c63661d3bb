"""SpecEdge's proactive drafting, rebuilt on our own loop to be compared with: one head, and it waits for the verdict.

SpecEdge (Park et al., arXiv:2505.17052; read at revision b4bf6c0 of its repository) lets the device draft on while the
server verifies, from one head: the most probable leaf of what was sent and the most probable target's own token behind it,
that is, from full acceptance and one guess. It drafts a fixed number of tokens there and stops. If the verdict is just that,
they are kept and drafting goes on from their end; otherwise all of it is thrown away. Nothing is sent before the verdict,
and there are no hints.

What is as there: draft length and head length are constants (its example configuration has 4 and 3), the head's tokens count
towards the next draft (its ``proactive_type: included``), tokens are compared and no probabilities sent. What is not: there a
draft is a tree of up to 32 nodes, here a chain, since our drafters and our wire know chains only; and there the head is
drafted to its end even if the verdict comes in the middle, here the verdict is looked at after each token, in its favour.
"""

from __future__ import annotations

from collections.abc import Sequence

from foredraft_edge.options import LoopOptions
from foredraft_edge.planner import FixedPlanner

__all__ = ["SINGLE_HEAD", "SingleHeadPlanner"]

SINGLE_HEAD = LoopOptions(window=1, hints=False)
"""Draft on meanwhile, send nothing before the verdict, take no hints."""


class SingleHeadPlanner(FixedPlanner):
    """Constant lengths.

    Args:
        length: tokens a draft.
        head: tokens drafted behind the guess while a verdict is awaited.
    """

    def __init__(self, length: int = 4, head: int = 3) -> None:
        super().__init__(length)
        assert 0 <= head <= length
        self._head = head

    def enough(self, probabilities: Sequence[float], *, idle: bool) -> bool:
        return len(probabilities) >= (self._length if idle else self._head)
