"""What a real run says about drafter, target and loop, so that the simulator can run the same texts again.

From the records of the very run come the times, as means, since what is foretold is a mean. Where the draft was right is not
guessed from a rate either: the draft model is asked once more for each token of the text that was written, given the text
before it, so every mode and length meets what it met in reality.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from foredraft_edge.drafters.base import Drafter, follow
from foredraft_shared.errors import UsageError
from foredraft_shared.messages import SamplingParams, TokenId
from foredraft_shared.traces import RoundRecord

from .from_trace import after_first, drafting_ms
from .metrics import Answer
from .virtual_models import Replayed, Times

__all__ = ["round_trip_ms", "skill_of", "times_of"]


def skill_of(
    drafter: Drafter, prompt: Sequence[TokenId], answer: Sequence[TokenId], sampling: SamplingParams
) -> Replayed:
    """Where ``drafter`` foresees ``answer``, and how sure it is."""
    drawn: list[tuple[bool, float]] = []
    text = list(prompt)
    for token in answer:
        follow(drafter, text)
        proposal = next(iter(drafter.draft(1, sampling)), None)
        drawn.append((proposal.token == token, proposal.probability) if proposal is not None else (False, 0.0))
        text.append(token)
    return Replayed(drawn)


def times_of(streamed: Iterable[Answer], drafted: Iterable[Answer]) -> Times:
    """How long things took.

    Args:
        streamed: answers of the cloud alone.
        drafted: answers with drafts.

    Raises:
        UsageError: there is nothing to learn from.
    """
    alone = [record for answer in streamed for record in after_first(answer.records)]
    rounds = [record for answer in drafted for record in after_first(answer.records)]
    judged = [record for record in rounds if record.verdict_at_us is not None and record.drafted]
    if len(alone) < 2 or len(judged) < 2:
        raise UsageError("too little was written to learn times from; ask for longer or more texts.")
    decode_ms = statistics.mean((record.cloud_computed_us or 0) / 1e3 for record in alone)
    verify_ms, row_ms = _line(judged)
    gaps = sorted(
        (after.verdict_at_us - before.verdict_at_us - (after.cloud_computed_us or 0)) / 1e3
        for answer in streamed
        for before, after in zip(answer.records[1:], answer.records[2:], strict=False)
        if before.verdict_at_us is not None and after.verdict_at_us is not None
    )
    return Times(
        draft_ms=drafting_ms(rounds),
        verify_ms=verify_ms,
        row_ms=row_ms,
        decode_ms=decode_ms,
        between_ms=max(0.0, statistics.median(gaps)) if gaps else 0.0,
        loop_ms=statistics.median(record.overhead_us for record in judged) / 1e3,
    )


def round_trip_ms(drafted: Iterable[Answer]) -> float | None:
    """What rounds that were waited for spent on the way, on average; ``None`` without such rounds. Emulated networks take a few
    milliseconds more than they are told to: processes have to wake up."""
    ways = [
        (record.verdict_at_us - record.sent_at_us - (record.cloud_queued_us or 0) - (record.cloud_computed_us or 0))
        / 1e3
        for answer in drafted
        for record in after_first(answer.records)
        if record.verdict_at_us is not None and record.sent_at_us is not None and record.drafted and not record.chained
    ]
    return max(0.0, statistics.mean(ways)) if ways else None


def _line(judged: Sequence[RoundRecord]) -> tuple[float, float]:
    """A pass over no draft, and what each drafted token adds: the line of least squares, never falling."""
    lengths = [float(record.drafted) for record in judged]
    passes = [(record.cloud_computed_us or 0) / 1e3 for record in judged]
    middle, mean_ms = statistics.mean(lengths), statistics.mean(passes)
    spread = sum((length - middle) ** 2 for length in lengths)
    rising = sum((length - middle) * (taken - mean_ms) for length, taken in zip(lengths, passes, strict=True))
    row_ms = max(0.0, rising / spread) if spread else 0.0
    return max(0.0, mean_ms - row_ms * middle), row_ms
