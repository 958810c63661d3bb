"""The file that a comparison leaves: what was measured, how, and on which machine.

The JSON has the fields of the dataclasses here, by their names, nested as they are (docs/bench/README.md tells what they
mean). Under ``figures`` and ``peer_figures`` each cell also holds what its samples come to, for programs that only want
that; they are not read back but computed again.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from foredraft_shared.errors import UsageError
from foredraft_shared.version import version

from ..report import write_atomically
from .figures import Figures, Spread, add_up, speed_up
from .samples import RoundSpans, Sample

__all__ = ["FORMAT", "CellResult", "Difference", "ModeTold", "Report", "SetUp", "read_report", "write_report"]

FORMAT = 1
"""Raised when a field changes its meaning or goes, not when one is added."""

BASELINE = "cloud"


@dataclass(frozen=True, slots=True)
class ModeTold:
    """A mode, in words."""

    name: str
    title: str
    label: str
    lossless: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """Two modes, or two runs of one, that should have written the same and did not."""

    prompt: int
    position: int
    modes: tuple[str, str]
    described: str
    """In words, with the tokens spelt."""


@dataclass(slots=True)
class CellResult:
    """What was measured under one set of conditions."""

    network: str
    described: str
    """The network in words."""
    rtt_ms: float
    tokens: int
    """Longest answer that was asked for."""
    devices: int
    runs: int
    """As planned; a run that was cut off has fewer samples."""
    prompts: int
    answered: int | None = None
    """Answers of each mode on each device; ``runs`` times ``prompts``, unless time was short."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Modes that could not run here, and why."""
    samples: dict[str, tuple[Sample, ...]] = field(default_factory=dict)
    """By mode."""
    peers: dict[str, tuple[Sample, ...]] = field(default_factory=dict)
    """By mode: other programs, in the same turns, without a network."""
    typical: dict[str, tuple[RoundSpans, ...]] = field(default_factory=dict)
    """By mode: three rounds in a row, of median length."""
    difference: Difference | None = None
    """The first one found among lossless modes."""
    peak_memory_mib: dict[str, float] = field(default_factory=dict)
    """Of each process, at the end of the cell, since it was started."""

    @property
    def title(self) -> str:
        told = f"{self.network}, {self.tokens} tokens"
        return told + (f", {self.devices} devices at once" if self.devices > 1 else "")

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells it from the other cells of a report."""
        return self.network, self.tokens, self.devices

    def figures(self) -> dict[str, Figures]:
        """By mode, for those with samples."""
        return {name: add_up(samples) for name, samples in self.samples.items() if samples}

    def peer_figures(self) -> dict[str, Figures]:
        """The same of other programs."""
        return {name: add_up(samples) for name, samples in self.peers.items() if samples}

    def beside_the_target(self, peer: str, lossless: Sequence[str]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Each answer of a peer and the target's to the same prompt, where a mode of ours that is ``lossless`` wrote one."""
        known = {sample.prompt: sample.tokens for name in lossless for sample in self.samples.get(name, ())}
        return [(sample.tokens, known[sample.prompt]) for sample in self.peers[peer] if sample.prompt in known]

    def speed_ups(self) -> dict[str, Spread]:
        """Over the cloud alone, by mode."""
        baseline = self.samples.get(BASELINE, ())
        found = {name: speed_up(samples, baseline) for name, samples in self.samples.items() if samples}
        return {name: spread for name, spread in found.items() if spread is not None}


@dataclass(slots=True)
class SetUp:
    """Everything that the figures depend on, as far as a program can tell."""

    target: str
    draft: str
    dtype: str
    exits: str | None
    temperature: float
    top_p: float
    seed: int
    past_the_end: bool
    prompts: tuple[str, ...]
    warm_up_tokens: int
    edge_cores: tuple[int, ...]
    cloud_cores: tuple[int, ...]


@dataclass(slots=True)
class Report:
    """A whole comparison."""

    set_up: SetUp
    machine: dict[str, str]
    modes: tuple[ModeTold, ...]
    """Ours."""
    command: str
    """What to type to have it again."""
    began_utc: str
    peers: tuple[ModeTold, ...] = ()
    """Other programs."""
    format: int = FORMAT
    foredraft: str = field(default_factory=version)
    took_s: float = 0.0
    complete: bool = False
    """Whether every cell that was planned was measured, be it with fewer texts: see :attr:`left_out`."""
    planned_cells: int = 0
    power_meter: bool = False
    cells: list[CellResult] = field(default_factory=list)

    @property
    def left_out(self) -> tuple[int, int]:
        """Answers that no mode gave in the cells that are there, for want of time, and how many were planned a mode."""
        planned = [(cell.prompts * cell.runs, cell.answered) for cell in self.cells]
        return sum(all_ - (all_ if done is None else done) for all_, done in planned), sum(all_ for all_, _ in planned)

    @property
    def differences(self) -> list[Difference]:
        return [cell.difference for cell in self.cells if cell.difference is not None]

    def label(self, mode: str) -> str:
        return next((told.label for told in (*self.modes, *self.peers) if told.name == mode), mode)


def write_report(path: Path, report: Report) -> None:
    """Write the file so that whoever reads ``path`` sees the old one or the whole new one.

    Raises:
        UsageError: it cannot be written.
    """
    document = dataclasses.asdict(report)
    for cell, told in zip(report.cells, document["cells"], strict=True):
        ratios = {name: dataclasses.asdict(spread) for name, spread in cell.speed_ups().items()}
        told["figures"] = {
            name: {**dataclasses.asdict(figures), "speed_up": ratios.get(name)}
            for name, figures in cell.figures().items()
        }
        told["peer_figures"] = {name: dataclasses.asdict(figures) for name, figures in cell.peer_figures().items()}
    write_atomically(path, document, indent=None)


def read_report(path: Path) -> Report:
    """Read such a file back.

    Raises:
        UsageError: there is none, it is damaged, of another kind or of a newer format; says what is wrong where.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the report {path}: {error.strerror}; check its name.") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is no report: it is not JSON; `foredraft bench run` writes report.json.") from None
    number = document.get("format") if isinstance(document, dict) else None
    if not isinstance(number, int) or "set_up" not in document:
        raise UsageError(f"{path} is no report of `foredraft bench run`; name the report.json that one wrote.")
    if number > FORMAT:
        raise UsageError(f"{path} is of format {number}, which this foredraft does not know; update foredraft here.")
    try:
        return _build(Report, document, "")
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path} is damaged: {error}; measure again.") from None


_T = TypeVar("_T")


def _build(kind: type[_T], value: Any, where: str) -> _T:
    """A value of JSON as ``kind``: a dataclass of ours, or what its fields are made of.

    Raises:
        TypeError: it is of another kind; names the field.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    built: Any
    if dataclasses.is_dataclass(kind):
        _expect(isinstance(value, Mapping), where, "an object")
        hints = typing.get_type_hints(kind)
        for item in dataclasses.fields(kind):
            required = item.default is item.default_factory is dataclasses.MISSING
            _expect(item.name in value or not required, f"{where}.{item.name}".lstrip("."), "there")
        known = {item.name: hints[item.name] for item in dataclasses.fields(kind) if item.name in value}
        built = kind(**{name: _build(hint, value[name], f"{where}.{name}".lstrip(".")) for name, hint in known.items()})
    elif origin is types.UnionType:
        built = None if value is None else _build(arguments[0], value, where)
    elif origin in (tuple, list):
        _expect(isinstance(value, list), where, "a list")
        inner = arguments if origin is tuple and arguments[-1] is not Ellipsis else (arguments[0],) * len(value)
        _expect(len(inner) == len(value), where, f"a list of {len(inner)}")
        built = origin(
            _build(each, item, f"{where}[{index}]") for index, (each, item) in enumerate(zip(inner, value, strict=True))
        )
    elif origin is dict:
        _expect(isinstance(value, Mapping), where, "an object")
        built = {str(name): _build(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    elif kind is float:
        _expect(isinstance(value, int | float) and not isinstance(value, bool), where, "a number")
        built = float(value)
    else:
        _expect(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), where, f"of kind {kind}")
        built = value
    return typing.cast(_T, built)


def _expect(true: bool, where: str, what: str) -> None:
    if not true:
        raise TypeError(f"{where} is not {what}")
