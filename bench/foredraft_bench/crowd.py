"""Many devices at one cloud: what a token takes each of them when passes are shared and rounds queue.

The loop and the engine themselves (:mod:`.virtual`) are too slow for a thousand devices, so this is a model of them by
rounds: a device's draft reaches the cloud, waits for the pass that is running, is judged in the next together with
everything else that has come by then, and the verdict goes back. If all of the draft and the guess behind it were right, the
next round is on its way already, two in flight at most; otherwise the device drafts anew. Where the draft is right is
independent from token to token. For one device it agrees with the simulator within 6 % (``tests/bench/test_crowd.py``).

A pass over many rows costs what a pass over few costs as long as reading the weights takes longer than computing, and grows
from there on in proportion (the roofline: Williams, Waterman and Patterson, CACM 52, 2009).
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

__all__ = ["Batching", "Crowd", "crowd"]


@dataclass(frozen=True, slots=True)
class Batching:
    """What a pass of the target takes."""

    base_ms: float
    """However few rows there are."""
    free_rows: int = 0
    """So many rows cost nothing more…"""
    row_ms: float = 0.0
    """…and each further one this."""
    most_rows: int = 4096
    """In one pass; what does not fit waits for the next."""

    def pass_ms(self, rows: int) -> float:
        """A pass over so many rows, all devices together."""
        return self.base_ms + self.row_ms * max(0, rows - self.free_rows)


@dataclass(frozen=True, slots=True)
class Crowd:
    """What a crowd of devices got."""

    ms_per_token: float
    """Mean over the devices, from first token to last."""
    rows_per_pass: float
    cloud_ms_per_token: float
    """Of the cloud's time, for each token of any device."""


@dataclass(order=True, slots=True)
class _Round:
    arrives_ms: float
    device: int
    sent_ms: float = field(compare=False)
    """When the device had finished drafting it."""


@dataclass(slots=True)
class _Device:
    left: int
    began_ms: float = -1.0
    ended_ms: float = 0.0
    judged_ms: float = 0.0
    """When the verdict before the latest reached it: with two rounds in flight, the next may leave then."""


def crowd(
    devices: int,
    *,
    rtt_ms: float,
    draft_ms: float,
    batching: Batching,
    acceptance: float,
    length: int,
    tokens: int = 200,
    seed: int = 0,
) -> Crowd:
    """Every device writes ``tokens`` tokens.

    Args:
        length: tokens a draft; 0 is the cloud alone, which streams: a device's next row waits for nothing but its pass.
    """
    dice = random.Random(f"{seed} crowd")
    states = [_Device(tokens) for _ in range(devices)]
    # They begin one after another, as people do, within the time of some rounds.
    span_ms = 4 * (rtt_ms + batching.base_ms + length * draft_ms)
    coming = [
        _Round(begin, index, begin) for index, begin in enumerate(dice.uniform(0, span_ms) for _ in range(devices))
    ]
    heapq.heapify(coming)
    now_ms = computed_ms = 0.0
    passes = all_rows = written = 0
    rows_each = length + 1
    while coming:
        now_ms = max(now_ms, coming[0].arrives_ms)
        batch: list[_Round] = []
        while coming and coming[0].arrives_ms <= now_ms and (len(batch) + 1) * rows_each <= batching.most_rows:
            batch.append(heapq.heappop(coming))
        rows = len(batch) * rows_each
        taken_ms = batching.pass_ms(rows)
        now_ms += taken_ms
        computed_ms += taken_ms
        passes += 1
        all_rows += rows
        for each in batch:
            state = states[each.device]
            accepted = 0
            while accepted < length and dice.random() < acceptance:
                accepted += 1
            hit = length > 0 and accepted == length and dice.random() < acceptance
            committed = min(accepted + 1, state.left)
            state.left -= committed
            written += committed
            arrived_ms = now_ms + rtt_ms / 2
            if state.began_ms < 0:
                state.began_ms = arrived_ms
                written -= committed
                state.left += committed - 1  # the first token begins the clock, what came with it is not counted
            state.ended_ms = arrived_ms
            if not state.left:
                continue
            if not length:
                following = _Round(now_ms, each.device, now_ms)
            elif hit:
                sent_ms = max(each.sent_ms + (length + 1) * draft_ms, state.judged_ms)
                following = _Round(sent_ms + rtt_ms / 2, each.device, sent_ms)
            else:
                # The device is in the middle of a token that is of no use when the verdict comes.
                sent_ms = arrived_ms + (length + 0.5) * draft_ms
                following = _Round(sent_ms + rtt_ms / 2, each.device, sent_ms)
            state.judged_ms = arrived_ms
            heapq.heappush(coming, following)
    each_ms = [(state.ended_ms - state.began_ms) / (tokens - 1) for state in states]
    return Crowd(sum(each_ms) / devices, all_rows / passes, computed_ms / max(1, written))
