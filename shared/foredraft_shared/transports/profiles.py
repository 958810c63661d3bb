"""Networks with a name: data for the link emulator and for the simulator.

Figures are round trips as an application sees them. ``lossy`` stands for a line of 40 ms on which one message in fifty has
to be sent again: TCP holds everything behind it back until then, which to a program is a stall of 200 ms (Linux' shortest
retransmission time-out, ``TCP_RTO_MIN``). The emulator's stalls come by the clock and not by the message, so the 2 % are
written as one stall in two seconds: a device that waits for a verdict before its next draft exchanges about 25 messages
in that time each second, both ways together. Networks that somebody recorded: :mod:`.recording`.
"""

from __future__ import annotations

from ..errors import UsageError
from .relay import LinkSettings

__all__ = ["PROFILES", "profile"]

PROFILES: dict[str, LinkSettings] = {
    "lan": LinkSettings(rtt_ms=1.0),
    "wifi": LinkSettings(rtt_ms=6.0, jitter_ms=3.0),
    "5g": LinkSettings(rtt_ms=20.0, jitter_ms=5.0),
    "lte": LinkSettings(rtt_ms=50.0, jitter_ms=15.0, rate_up_mbps=12.0),
    "intercontinental": LinkSettings(rtt_ms=150.0),
    "satellite": LinkSettings(rtt_ms=600.0),
    "lossy": LinkSettings(rtt_ms=40.0, stall_every_s=2.0, stall_ms=200.0),
}


def profile(name: str) -> LinkSettings:
    """The settings of a network by its name.

    Raises:
        UsageError: there is no network of that name.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise UsageError(f"there is no link profile {name!r}; choose from {', '.join(PROFILES)}.") from None
