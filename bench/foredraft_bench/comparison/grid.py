"""What is to be measured: cells, each a network, an output length and so many devices, and the modes in each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from foredraft_shared.errors import UsageError
from foredraft_shared.messages import SamplingParams
from foredraft_shared.transports.profiles import PROFILES
from foredraft_shared.transports.recording import LinkRecording, read_recording
from foredraft_shared.transports.relay import LinkSettings

from ..modes import MODES
from ..peers.mode import PEERS
from ..prompts import DEMONSTRATION
from ..stage import Pair

__all__ = ["Cell", "Network", "Plan", "chosen_modes", "cross", "full", "network", "networks", "quick"]

DEFAULT_MODES = tuple(MODES)
_OURS = tuple(name for name in MODES if name not in PEERS)
LOSSLESS = tuple(name for name, mode in MODES.items() if mode.lossless)


@dataclass(frozen=True, slots=True)
class Network:
    """A network with a name."""

    name: str
    settings: LinkSettings
    """Of a recording: only the round trip, its mean over time."""
    recording: str = ""
    """The file that is played; empty for a network that is always the same."""

    def describe(self) -> str:
        """In a few words."""
        if self.recording:
            return f"a recording, {self.settings.rtt_ms:.0f} ms round trip on average"
        told = f"{self.settings.rtt_ms:g} ms round trip"
        told += f" ± {self.settings.jitter_ms:g}" if self.settings.jitter_ms else ""
        told += f", {self.settings.rate_mbps:g} Mbit/s" if self.settings.rate_mbps else ""
        told += f", {self.settings.rate_up_mbps:g} Mbit/s up" if self.settings.rate_up_mbps is not None else ""
        if self.settings.stall_every_s:
            told += f", stalls of {self.settings.stall_ms:g} ms about every {self.settings.stall_every_s:g} s"
        return told


def network(name: str) -> Network:
    """A network by the name of its profile, or by the file of a recording (``.csv``).

    Raises:
        UsageError: there is none of that name, or the recording cannot be read.
    """
    if name in PROFILES:
        return Network(name, PROFILES[name])
    if name.endswith(".csv"):
        return Network(Path(name).stem, LinkSettings(rtt_ms=_mean_rtt_ms(read_recording(name))), name)
    raise UsageError(
        f"there is no network {name!r}; choose from {', '.join(PROFILES)}, or name a recording (a file that ends in .csv)."
    )


def _mean_rtt_ms(recording: LinkRecording) -> float:
    until = (*recording.times_s[1:], recording.length_s)
    held = zip(recording.times_s, until, recording.settings, strict=True)
    return sum((end - begin) * each.rtt_ms for begin, end, each in held) / recording.length_s


def networks(profiles: str, rtts: str) -> tuple[Network, ...]:
    """Networks by names and by bare round trips in milliseconds, with commas between; the quick form's without either.

    Raises:
        UsageError: a name or number makes no sense, or one is named twice.
    """
    found = [network(name) for name in _parts(profiles)]
    for text in _parts(rtts):
        rtt_ms = _number(text)
        if rtt_ms is None or rtt_ms < 0:
            raise UsageError(f"--rtt has {text!r}; give round trips in milliseconds, such as 5,20,60.")
        found.append(Network(f"{rtt_ms:g}ms", LinkSettings(rtt_ms=rtt_ms)))
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"the network {name} is named twice; name each once.")
    return tuple(found) or _QUICK_NETWORKS


_QUICK_S = 260.0
"""So that loading, drawing and a last prompt on a slow machine stay under five minutes."""
_QUICK_NETWORKS = tuple(Network(name, PROFILES[name]) for name in ("lan", "5g", "lte"))


@dataclass(frozen=True, slots=True)
class Cell:
    """Conditions under which modes are compared."""

    network: Network
    tokens: int
    """Longest answer."""
    modes: tuple[str, ...] = DEFAULT_MODES
    devices: int = 1
    """So many write at once, each the prompts in another order."""
    runs: int = 2
    prompts: int | None = None
    """Only the first so many; ``None`` for all."""

    @property
    def title(self) -> str:
        """What tells it from the other cells."""
        told = f"{self.network.name}, {self.tokens} tokens"
        return told + (f", {self.devices} devices at once" if self.devices > 1 else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole comparison."""

    pair: Pair
    cells: tuple[Cell, ...]
    prompts: tuple[str, ...] = DEMONSTRATION
    sampling: SamplingParams = field(default_factory=SamplingParams)
    past_the_end: bool = False
    """Write on where the model would stop, so that answers have their full length."""
    warm_up_tokens: int = 12
    """Written in each mode before each cell, and thrown away; the planner learns from them."""
    within_s: float = math.inf
    """From the command's beginning: what does not fit in is left out, evenly over the cells."""

    def prompts_of(self, cell: Cell) -> tuple[str, ...]:
        """The prompts that are answered in a cell."""
        return self.prompts[: cell.prompts]

    @property
    def modes(self) -> tuple[str, ...]:
        """Of all cells, in our own order."""
        wanted = {name for cell in self.cells for name in cell.modes}
        return tuple(name for name in MODES if name in wanted)


def cross(
    networks: Sequence[Network], lengths: Sequence[int], devices: Sequence[int], modes: Sequence[str], runs: int
) -> tuple[Cell, ...]:
    """Every combination. Other programs know no network and no second device: they take part once for each length.

    Raises:
        UsageError: nothing is left to measure.
    """
    cells: list[Cell] = []
    for each in networks:
        for tokens in lengths:
            for count in devices:
                met = count > 1 or any(cell.tokens == tokens and cell.devices == 1 for cell in cells)
                chosen = tuple(name for name in modes if not (met and name in PEERS))
                cells.append(Cell(each, tokens, chosen, count, runs))
    if not any(cell.modes for cell in cells):
        raise UsageError(
            f"{', '.join(modes)} write one text at a time; put 1 into --concurrency or name another mode with --modes."
        )
    return tuple(cell for cell in cells if cell.modes)


def quick(pair: Pair) -> Plan:
    """A first impression in under five minutes on two cores with a small target; a slow machine answers fewer prompts. Other
    programs are left out: each loads models of its own, for which there is no time."""
    return Plan(pair, cross(_QUICK_NETWORKS, (40,), (1,), _OURS, runs=2), within_s=_QUICK_S)


def full(pair: Pair, recording: Network | None = None) -> Plan:
    """The grid of the committed report: all networks, then lengths and devices over one of them; about 20 minutes with a
    small target, and more where other programs are installed. Modes that pay a long round trip for each token are left out
    where that is all they would do."""
    near = [each for name in ("lan", "wifi", "5g", "lte", "lossy") for each in [Network(name, PROFILES[name])]]
    near += [recording] if recording is not None else []
    far = [Network(name, PROFILES[name]) for name in ("intercontinental", "satellite")]
    over_5g = Network("5g", PROFILES["5g"])
    patient = tuple(name for name in _OURS if name != "remote")
    cells = [Cell(each, 40, _OURS if index else DEFAULT_MODES, runs=3) for index, each in enumerate(near)]
    cells += [Cell(each, 32, patient, runs=2, prompts=2) for each in far]
    cells += [Cell(over_5g, tokens, ("cloud", "ahead", "auto", *PEERS), runs=2, prompts=1) for tokens in (128, 512)]
    cells += [Cell(over_5g, 2048, ("cloud", "auto"), runs=1, prompts=1)]
    cells += [Cell(over_5g, 40, ("cloud", "waiting", "ahead", "auto"), devices, runs=2) for devices in (2, 4)]
    return Plan(pair, tuple(cells), past_the_end=True)


def chosen_modes(text: str) -> tuple[str, ...]:
    """The named modes, in our own order; all without a name.

    Raises:
        UsageError: there is none of that name.
    """
    wanted = _parts(text)
    unknown = sorted(set(wanted) - MODES.keys())
    if unknown:
        raise UsageError(f"there is no mode {unknown[0]!r}; choose from {', '.join(MODES)}, with commas between.")
    return tuple(name for name in MODES if name in wanted) or DEFAULT_MODES


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Positive whole numbers with commas between, sorted.

    Raises:
        UsageError: one is not; ``option`` says where.
    """
    found = []
    for part in _parts(text):
        number = _number(part)
        if number is None or number != int(number) or number < 1:
            raise UsageError(f"{option} has {part!r}; give whole numbers from 1, with commas between, such as 32,128.")
        found.append(int(number))
    if not found:
        raise UsageError(f"{option} is empty; give whole numbers from 1, with commas between, such as 32,128.")
    return tuple(sorted(set(found)))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
