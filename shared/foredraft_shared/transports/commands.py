"""``foredraft link``: a network between two programs on one machine."""

from __future__ import annotations

import dataclasses
import signal
from types import FrameType
from typing import Annotated

import typer

from .link import open_relay, settings_from
from .profiles import PROFILES
from .profiles import profile as profile_named
from .relay import LinkSettings, LinkStatistics

__all__ = ["link"]


def link(
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server.")] = "127.0.0.1:5555",
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where devices connect instead; port 0 takes any free one.")
    ] = "127.0.0.1:5556",
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"{', '.join(PROFILES)}; what else is given changes it.")
    ] = None,
    rtt: Annotated[float | None, typer.Option(metavar="MS", help="Round trip, half of it each way.")] = None,
    jitter: Annotated[
        float | None, typer.Option(metavar="MS", help="The round trip varies by this much up and down.")
    ] = None,
    rate_mbps: Annotated[
        float | None, typer.Option(metavar="MBIT", help="Megabits a second each way; 0: no limit.")
    ] = None,
    stall_every: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Mean time between stalls; 0: never.")
    ] = None,
    stall: Annotated[float | None, typer.Option(metavar="MS", help="How long a stall lasts; default 200.")] = None,
    seed: Annotated[int, typer.Option(help="Of jitter and stalls.")] = 0,
) -> None:
    """Emulate a network: a TCP relay with delay, jitter, a rate limit and stalls."""
    settings = _settings(profile, rtt, jitter, rate_mbps, stall_every, stall, seed)
    relay, address = open_relay(to, listen, settings)

    def stop(number: int, frame: FrameType | None) -> None:
        relay.call(relay.stop)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    rate = f"{settings.rate_mbps:g} Mbit/s" if settings.rate_mbps else "no rate limit"
    typer.echo(f"{address} → {to}: round trip {settings.rtt_ms:g} ± {settings.jitter_ms:g} ms, {rate}. Ctrl-C ends it.")
    relay.run()
    typer.echo(_told(relay.statistics()))


def _settings(
    profile: str | None,
    rtt: float | None,
    jitter: float | None,
    rate_mbps: float | None,
    stall_every: float | None,
    stall: float | None,
    seed: int,
) -> LinkSettings:
    """The profile's, changed by what was given beside it."""
    base = profile_named(profile) if profile is not None else LinkSettings(stall_ms=200.0)
    given = {
        "rtt_ms": rtt, "jitter_ms": jitter, "rate_mbps": rate_mbps, "stall_every_s": stall_every, "stall_ms": stall,
    }  # fmt: skip
    changed = {name: value for name, value in given.items() if value is not None}
    return settings_from(**{**dataclasses.asdict(base), **changed, "seed": seed})


def _told(total: LinkStatistics) -> str:
    return f"{total.connections} connections, {total.bytes_up} bytes up, {total.bytes_down} bytes down."
