"""Who gets rows in the next pass, and whether the pass waits a moment for more. Pure: instants are handed in.

A pass mixes rounds, decodes and pieces of prompts. The rules, in this order:

* **A round is verified whole or not at all, a prompt in pieces.** While both wait, rounds leave ``prefill_rows`` to
  prompts and prompts take no more than those, so neither starves the other; with a deadline in the pass, prompts take
  fewer still, if the pass is known to miss it otherwise.
* **Devices take turns, not sessions.** The most urgent round of every device comes before the second of any. Who
  cannot prove who they are count by connection.
* **The least time left first.** A round is due when its device says (JITServe's idea, 2504.20068), else, and at the
  latest, ``PATIENCE_US`` after it came. So a device that always claims to be in a hurry overtakes others by no more than
  that, and nobody waits for ever.
* **Prompts take turns**, those served longest ago first.

Waiting for company pays where a pass over more rows costs little more than one over fewer. By the measured cost c of a pass
over so many rows: n rounds of r rows are ready, k more with s rows will be there in t. Run now, and the n end after
c(r), the k after c(r) + c(s); wait, and all end after t + c(r + s). The pass waits if that sum of times becomes
smaller by a tenth or more, at most for ``gather_us``, and never beyond what a deadline leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .cost import PassCost

__all__ = ["PATIENCE_US", "Expected", "Scheduler", "Waiting"]

PATIENCE_US = 1_000_000
_LEAST_PROMPT_ROWS = 8
"""What prompts get however tight a deadline is: they must be read some day."""
_WORTH = 0.9

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Waiting(Generic[Key]):
    """What one session waits for."""

    key: Key
    device: Hashable
    rows: int
    """Of a round all that it needs; of a prompt all that is unread."""
    verifies: bool
    """A round; else a prompt."""
    since_us: float
    """When it came."""
    due_us: float | None = None
    """When its device needs the answer, if it has said so."""
    served: int = 0
    """When it last got rows, as a count of passes."""

    @property
    def latest_us(self) -> float:
        """When it is due at the latest."""
        patience = self.since_us + PATIENCE_US
        return patience if self.due_us is None else min(self.due_us, patience)


@dataclass(frozen=True, slots=True)
class Expected:
    """A round that will probably come."""

    at_us: float
    rows: int


class Scheduler(Generic[Key]):
    """The rules above.

    Args:
        max_rows: in one pass; at least ``prefill_rows`` and the longest round together.
        prefill_rows: of prompts, in a pass that also verifies.
        gather_us: longest wait for company; 0: none.
    """

    def __init__(self, max_rows: int, prefill_rows: int, gather_us: float, cost: PassCost) -> None:
        self._max_rows = max_rows
        self._prefill_rows = prefill_rows
        self._gather_us = gather_us
        self._cost = cost
        self._gathering_since_us: float | None = None

    def order(self, waiting: Sequence[Waiting[Key]]) -> list[Waiting[Key]]:
        """All that wait, rounds before prompts, those first that come first."""
        turns: Counter[Hashable] = Counter()
        rounds: list[tuple[int, float, int, Waiting[Key]]] = []
        for number, each in enumerate(sorted(waiting, key=lambda each: each.latest_us)):
            if each.verifies:
                rounds.append((turns[each.device], each.latest_us, number, each))
                turns[each.device] += 1
        prompts = sorted((each for each in waiting if not each.verifies), key=lambda each: (each.served, each.since_us))
        return [*(each for *_, each in sorted(rounds, key=lambda entry: entry[:3])), *prompts]

    def choose(self, waiting: Sequence[Waiting[Key]], now_us: float, take: Callable[[Waiting[Key], int], int]) -> int:
        """Give out the rows of a pass.

        Args:
            take: ``take(one, rows)`` lets one have as many rows, of which it may take fewer; returns how many it took, 0
                if it has to wait for another reason.

        Returns:
            Rows given out.
        """
        self._gathering_since_us = None
        ordered = self.order(waiting)
        rounds = [each for each in ordered if each.verifies]
        prompts = [each for each in ordered if not each.verifies]
        reserved = 0
        if rounds:  # the first of them always fits
            reserved = min(self._prefill_rows, sum(each.rows for each in prompts), self._max_rows - rounds[0].rows)
        left = self._max_rows - reserved
        due: list[float] = []
        for each in rounds:
            if each.rows <= left:
                taken = take(each, each.rows)
                left -= taken
                if taken and each.due_us is not None:
                    due.append(each.due_us)
        verified = self._max_rows - reserved - left
        room = self._prompt_rows(verified, min(due, default=None), now_us) if verified else self._max_rows
        given = 0
        for each in prompts:
            if given < room:
                given += take(each, min(each.rows, room - given))
        return verified + given

    def pause_us(self, waiting: Sequence[Waiting[Key]], expected: Sequence[Expected], now_us: float) -> float:
        """How long the pass should wait for more rounds; 0: it should run now."""
        rounds = [each for each in waiting if each.verifies]
        if not self._gather_us or not rounds or len(rounds) < len(waiting):  # a prompt has enough to do meanwhile
            return 0.0
        since = now_us if self._gathering_since_us is None else self._gathering_since_us
        rows = sum(each.rows for each in rounds)
        alone = self._cost.estimate(rows)
        if alone is None:
            return 0.0
        due = min((each.due_us for each in rounds if each.due_us is not None), default=None)
        best, best_ratio = 0.0, _WORTH
        more = 0
        for count, each in enumerate(sorted(expected, key=lambda each: each.at_us), 1):
            more += each.rows
            wait = max(0.0, each.at_us - now_us)
            together, later = self._cost.estimate(rows + more), self._cost.estimate(more)
            if together is None or later is None or rows + more > self._max_rows:
                break
            if now_us + wait > since + self._gather_us or (due is not None and now_us + wait + together > due):
                break
            if wait >= alone:
                break  # it would find the pass over anyway
            now = len(rounds) * alone + count * (alone + later)
            ratio = (len(rounds) + count) * (wait + together) / now
            if ratio < best_ratio:
                best, best_ratio = wait, ratio
        self._gathering_since_us = since if best else None
        return best

    def _prompt_rows(self, verified: int, due_us: float | None, now_us: float) -> int:
        """Rows of prompts beside ``verified`` others."""
        rows = self._prefill_rows
        while due_us is not None and rows > _LEAST_PROMPT_ROWS:
            cost = self._cost.estimate(verified + rows)
            if cost is None or now_us + cost <= due_us:
                break
            rows //= 2
        return min(rows, self._max_rows - verified)
