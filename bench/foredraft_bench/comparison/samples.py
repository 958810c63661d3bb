"""What is kept of an answer: its tokens, their instants, and what its rounds add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from foredraft_shared.traces import RoundRecord
from foredraft_shared.traces.timeline import attribute, flights

from ..metrics import Answer
from .limit import Parts, divide
from .reliability import HintSeen

__all__ = ["Decision", "RoundSpans", "Sample", "boil_down", "typical_rounds"]


@dataclass(frozen=True, slots=True)
class Decision:
    """The planner began to do something else."""

    written: int
    """Tokens written before it."""
    mode: str
    """``speculate`` or ``cloud``."""
    reason: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to one prompt in one mode."""

    prompt: int
    """Index of the prompt."""
    run: int
    """Which repetition of the whole comparison."""
    device: int
    """Which of the devices that wrote at once."""
    tokens: tuple[int, ...]
    arrived_ms: tuple[float, ...]
    """See :attr:`foredraft_bench.metrics.Answer.arrived_ms`."""
    finish: str = ""
    draft_rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    tried_at: tuple[int, ...] = ()
    """By place in the draft: how often the token there was judged, all before it being accepted."""
    accepted_at: tuple[int, ...] = ()
    """By place in the draft: how often it was accepted."""
    hints: tuple[HintSeen, ...] = ()
    guesses: int = 0
    guess_hits: int = 0
    drafting_ms: float = 0.0
    hidden_drafting_ms: float = 0.0
    """Drafting while another round was in flight, which cost the caller nothing."""
    cloud_passes: int = 0
    cloud_computed_ms: float = 0.0
    """As reported for this text; a pass that served several devices at once is counted for each."""
    bytes_up: int = 0
    bytes_down: int = 0
    parts: Parts | None = None
    decisions: tuple[Decision, ...] = ()
    speculated: int = 0
    """Tokens that came from rounds with drafts."""
    joules: float | None = None
    """What the device's own meter counted while the answer was written."""

    @property
    def text(self) -> tuple[int, int, int]:
        """Which of a cell's texts it is: prompt, run, device. Every mode writes each of them once."""
        return self.prompt, self.run, self.device

    @property
    def gaps_ms(self) -> list[float]:
        """See :attr:`foredraft_bench.metrics.Answer.gaps_ms`."""
        return [after - before for before, after in zip(self.arrived_ms, self.arrived_ms[1:], strict=False)]


def boil_down(answer: Answer, *, prompt: int, run: int, device: int = 0, joules: float | None = None) -> Sample:
    """What is kept of an answer."""
    tried, accepted = _by_position(answer.records)
    verdicts = [record for record in answer.records if record.accepted is not None]
    times = [time for _, time in attribute(answer.records)]
    guesses = [record.guess_hit for record in verdicts if record.guess_hit is not None]
    waited_us, hidden_us = sum(time.drafting_us for time in times), sum(time.hidden_drafting_us for time in times)
    return Sample(
        prompt=prompt,
        run=run,
        device=device,
        tokens=answer.tokens,
        arrived_ms=tuple(round(instant, 2) for instant in answer.arrived_ms),
        finish=answer.finish,
        draft_rounds=answer.draft_rounds,
        drafted=sum(record.drafted for record in verdicts),
        accepted=answer.accepted,
        tried_at=tried,
        accepted_at=accepted,
        hints=tuple(
            HintSeen(
                hint.exit_layer,
                round(hint.confidence, 4),
                (hint.accepted, hint.token) == (record.accepted, record.token),
            )
            for record in verdicts
            for hint in record.hints
        ),
        guesses=len(guesses),
        guess_hits=sum(guesses),
        drafting_ms=(waited_us + hidden_us) / 1000.0,
        hidden_drafting_ms=hidden_us / 1000.0,
        cloud_passes=answer.cloud_passes,
        cloud_computed_ms=sum(record.cloud_computed_us or 0 for record in verdicts) / 1000.0,
        bytes_up=answer.bytes_up,
        bytes_down=answer.bytes_down,
        parts=divide(answer),
        decisions=_decisions(answer.records),
        speculated=sum(record.committed for record in verdicts if record.kind == "speculate"),
        joules=joules,
    )


def _by_position(records: Sequence[RoundRecord]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    tried: Counter[int] = Counter()
    accepted: Counter[int] = Counter()
    judged = [record for record in records if record.kind == "speculate" and record.accepted is not None]
    for record in judged:
        assert record.accepted is not None
        accepted.update(range(record.accepted))
        # The end of the text cuts a draft short: what lies behind it was never judged.
        rejected = record.accepted < record.drafted and record is not judged[-1]
        tried.update(range(record.accepted + rejected))
    places = range(max(tried, default=-1) + 1)
    return tuple(tried[place] for place in places), tuple(accepted[place] for place in places)


def _decisions(records: Sequence[RoundRecord]) -> tuple[Decision, ...]:
    """One a change of mode, told by the rounds that committed something."""
    found: list[Decision] = []
    written = 0
    for record in records:
        if not record.committed:
            continue
        if not found or found[-1].mode != record.decision:
            found.append(Decision(written, record.decision, record.reason))
        written += record.committed
    return tuple(found)


@dataclass(frozen=True, slots=True)
class RoundSpans:
    """Where a round lies in time, in milliseconds since the first round shown was begun; ``None`` did not happen."""

    round: int
    drafted: int
    accepted: int
    committed: int
    chained: bool
    draft_began_ms: float | None
    draft_ended_ms: float | None
    sent_ms: float
    queued_ms: float
    computing_ms: float
    answered_ms: float
    verdict_ms: float
    hints_ms: tuple[float, ...]


def typical_rounds(answer: Answer, count: int = 3) -> tuple[RoundSpans, ...]:
    """So many rounds in a row, the middle one of which takes the median time of the answer's rounds; fewer where there are
    fewer; none in a mode without drafts."""
    rounds = [
        (record, flight)
        for record, flight in flights(answer.records)
        if flight is not None and record.kind == "speculate" and record.committed and record.drafted
    ]
    if len(rounds) < count:
        return ()
    inner = range(1, len(rounds) - count + 2)
    took = sorted((rounds[at][1].verdict_at_us - rounds[at - 1][1].verdict_at_us, at) for at in inner)
    middle = took[len(took) // 2][1]
    shown = rounds[middle - 1 : middle - 1 + count]
    instants = [
        at for record, flight in shown for at in (record.draft_began_at_us, flight.sent_at_us) if at is not None
    ]
    zero = min(instants)

    def ms(instant_us: int) -> float:
        return (instant_us - zero) / 1000.0

    return tuple(
        RoundSpans(
            round=record.round,
            drafted=record.drafted,
            accepted=record.accepted or 0,
            committed=record.committed,
            chained=record.chained,
            draft_began_ms=None if record.draft_began_at_us is None else ms(record.draft_began_at_us),
            draft_ended_ms=None if record.draft_ended_at_us is None else ms(record.draft_ended_at_us),
            sent_ms=ms(flight.sent_at_us),
            queued_ms=ms(flight.queued_at_us),
            computing_ms=ms(flight.computing_at_us),
            answered_ms=ms(flight.answered_at_us),
            verdict_ms=ms(flight.verdict_at_us),
            hints_ms=tuple(ms(hint.at_us) for hint in record.hints),
        )
        for record, flight in shown
    )
