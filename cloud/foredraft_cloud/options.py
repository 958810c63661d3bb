"""What an engine may do, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EngineOptions", "EngineStatistics"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Limits and trade-offs of the engine."""

    max_sessions: int = 64
    """Active at once; parked ones do not count."""
    max_sessions_per_device: int = 8
    """Parked ones included. For devices that prove who they are; the others are told apart by nothing."""
    idle_s: float = 30.0
    """A session silent for so long is parked: a device that vanished never says goodbye."""
    park_s: float = 900.0
    """A session silent for so long is dropped; its device resumes it with the whole text if it comes back."""
    max_parked: int = 1024
    """Parked sessions beyond that are dropped, longest silent first."""
    max_rows: int = 128
    """Rows in one pass, all sessions together."""
    prefill_rows: int = 64
    """Rows of prompts in a pass that also verifies rounds: a bound on how long a prompt delays everybody else."""
    max_draft: int = 64
    max_waiting_rows: int = 65536
    """Tokens of unread prompts and of drafts that may wait at a time; who comes with more is refused. One text always may."""
    gather_us: int = 10_000
    """Longest time a pass waits for rounds that are about to come, where that pays; 0: never."""
    drop_confidence: float | None = None
    """At an exit that is so sure that a drafted token is wrong, what follows the token is dropped from the rest of the pass.
    ``None``: never, for where exits are not calibrated."""
    lossy_exit: int = 0
    """The layer of its model that the target takes as final (:mod:`.lossy`), told to devices, who must allow it. 0: none,
    the target is its whole model."""
    hint_confidence: float = 0.5
    """A hint is sent when the exit is at least this sure of the whole outcome."""

    def __post_init__(self) -> None:
        if self.max_rows < self.prefill_rows + self.max_draft:
            raise ValueError("max_rows is below prefill_rows + max_draft: a long draft would never get its rows")


@dataclass(slots=True)
class EngineStatistics:
    """Counts since the start; ``*_us`` are microseconds. The last few tell how things stand after the latest pass."""

    passes: int = 0
    gathered: int = 0
    """Times a pass waited for rounds about to come."""
    rows: int = 0
    prompt_rows: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    committed: int = 0
    hints: int = 0
    hints_confirmed: int = 0
    rows_dropped: int = 0
    """Rows that did not go to full depth: behind a token that an exit took to be wrong, or of a session that was closed."""
    dropped_wrongly: int = 0
    """Rounds that had to be verified in two passes because such a token was right."""
    cancelled: int = 0
    """Sessions that were closed or resumed in the middle of a pass."""
    model_us: int = 0
    outside_us: int = 0
    """Scheduling, judging and answering: everything in a step but the target."""
    prefix_hits: int = 0
    """Times a session found the beginning of its text in the cache."""
    prefix_tokens: int = 0
    """Tokens it did not have to read for it."""
    evictions: int = 0
    """Sessions whose room in the cache was given to others."""
    rebuilds: int = 0
    """Of these, the ones that came back and were read again."""
    parked: int = 0
    cache_used_bytes: int = 0
    """Held by sessions; what is kept of others besides is given up for the asking."""
    cache_limit_bytes: int = 0
