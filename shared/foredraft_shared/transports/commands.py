"""``foredraft link``: a network between two programs on one machine."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from ..errors import UsageError
from .link import open_relay, recording_from, settings_from
from .profiles import PROFILES
from .profiles import profile as profile_named
from .recording import LinkRecording
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
    trace_file: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Play a recorded network, again and again: time_s, delay_ms, rate_mbps."),
    ] = None,
    rtt: Annotated[float | None, typer.Option(metavar="MS", help="Round trip, half of it each way.")] = None,
    jitter: Annotated[
        float | None, typer.Option(metavar="MS", help="The round trip varies by this much up and down.")
    ] = None,
    rate_mbps: Annotated[
        float | None, typer.Option(metavar="MBIT", help="Megabits a second each way; 0: no limit.")
    ] = None,
    rate_up_mbps: Annotated[
        float | None, typer.Option(metavar="MBIT", help="The same for the way up, if that is another.")
    ] = None,
    stall_every: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Mean time between stalls; 0: never.")
    ] = None,
    stall: Annotated[float | None, typer.Option(metavar="MS", help="How long a stall lasts; default 200.")] = None,
    seed: Annotated[int, typer.Option(help="Of jitter and stalls.")] = 0,
) -> None:
    """Emulate a network: a TCP relay with delay, jitter, a rate limit and stalls."""
    given = {
        "rtt_ms": rtt,
        "jitter_ms": jitter,
        "rate_mbps": rate_mbps,
        "rate_up_mbps": rate_up_mbps,
        "stall_every_s": stall_every,
        "stall_ms": stall,
        "seed": seed,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    recording: LinkRecording | None = None
    if trace_file is not None:
        if profile is not None:
            raise UsageError("--profile and --trace-file are two networks; give one of them.")
        recording = recording_from(trace_file, **{"stall_ms": 200.0, **changes})
        settings = recording.settings[0]
    else:
        base = profile_named(profile) if profile is not None else LinkSettings(stall_ms=200.0)
        settings = settings_from(**{**dataclasses.asdict(base), **changes})
    relay, address = open_relay(to, listen, settings, recording)

    def stop(number: int, frame: FrameType | None) -> None:
        relay.call(relay.stop)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    what = _described(settings) if recording is None else f"{trace_file}, {_played(recording)}"
    typer.echo(f"{address} → {to}: {what}. Ctrl-C ends it.")
    relay.run()
    typer.echo(_told(relay.statistics()))


def _described(settings: LinkSettings) -> str:
    """A link in words."""
    up, down = settings.rate(up=True), settings.rate(up=False)
    rates = [f"{rate:g} Mbit/s {way}" for rate, way in ((up, "up"), (down, "down")) if rate]
    if up == down:
        rates = [f"{up:g} Mbit/s"] if up else ["no rate limit"]
    return f"round trip {settings.rtt_ms:g} ± {settings.jitter_ms:g} ms, {', '.join(rates)}"


def _played(recording: LinkRecording) -> str:
    return f"round trip {recording.mean_rtt_ms:.1f} ms on average, {recording.length_s:g} s, again and again"


def _told(total: LinkStatistics) -> str:
    return f"{total.connections} connections, {total.bytes_up} bytes up, {total.bytes_down} bytes down."
