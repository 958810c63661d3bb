"""What a round loop may do: settings of one text, with the defaults that users get."""

from __future__ import annotations

from dataclasses import dataclass

from .conversation import OnDisconnect

__all__ = ["LoopOptions"]


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """What the loop may do."""

    ahead: bool = True
    """Draft on while a round is in flight; without it the device waits for each verdict."""
    window: int = 3
    """Rounds in flight at most; 1 never chains."""
    chain_confidence: float = 0.15
    """A chained round is sent if what it assumes is at least this probable: below, it is only bytes."""
    hints: bool = True
    timeout_s: float = 30.0
    """Silence after which the server is given up."""
    on_disconnect: OnDisconnect = "wait"
