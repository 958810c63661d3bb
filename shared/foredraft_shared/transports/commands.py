"""``foredraft link``: a network between two programs on one machine."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Annotated

import typer

from .link import open_relay, settings_from
from .relay import LinkStatistics

__all__ = ["link"]


def link(
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server.")] = "127.0.0.1:5555",
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where devices connect instead; port 0 takes any free one.")
    ] = "127.0.0.1:5556",
    rtt: Annotated[float, typer.Option(metavar="MS", help="Round trip, half of it each way.")] = 0.0,
    jitter: Annotated[float, typer.Option(metavar="MS", help="The round trip varies by this much up and down.")] = 0.0,
    rate_mbps: Annotated[float, typer.Option(metavar="MBIT", help="Megabits a second each way; 0: no limit.")] = 0.0,
    stall_every: Annotated[float, typer.Option(metavar="SECONDS", help="Mean time between stalls; 0: never.")] = 0.0,
    stall: Annotated[float, typer.Option(metavar="MS", help="How long a stall lasts.")] = 200.0,
    seed: Annotated[int, typer.Option(help="Of jitter and stalls.")] = 0,
) -> None:
    """Emulate a network: a TCP relay with delay, jitter, a rate limit and stalls."""
    settings = settings_from(
        rtt_ms=rtt, jitter_ms=jitter, rate_mbps=rate_mbps, stall_every_s=stall_every, stall_ms=stall, seed=seed
    )
    relay, address = open_relay(to, listen, settings)

    def stop(number: int, frame: FrameType | None) -> None:
        relay.call(relay.stop)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    rate = f"{rate_mbps:g} Mbit/s" if rate_mbps else "no rate limit"
    typer.echo(f"{address} → {to}: round trip {rtt:g} ± {jitter:g} ms, {rate}. Ctrl-C ends it.")
    relay.run()
    typer.echo(_told(relay.statistics()))


def _told(total: LinkStatistics) -> str:
    return f"{total.connections} connections, {total.bytes_up} bytes up, {total.bytes_down} bytes down."
