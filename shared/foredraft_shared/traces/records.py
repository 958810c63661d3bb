"""What a trace holds: a header, then one record a round, as JSON lines.

Two kinds of time stand in a record. Names that end in ``_at_us`` are *instants*: microseconds since the trace began, on
the edge's monotonic clock. Names that end in ``_us`` alone are *durations*. What the cloud reports are durations only,
since its clock is not ours; :mod:`.timeline` places them.

A field that is ``None`` (or missing from the line) did not happen or is not known, which is not the same as zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from ..errors import Malformed

__all__ = [
    "FORMAT",
    "HintRecord",
    "RoundKind",
    "RoundRecord",
    "TraceHeader",
    "decode_header",
    "decode_round",
    "encode_line",
]

FORMAT = 1
"""Number of this schema; raised when a field changes its meaning, not when one is added."""

RoundKind: TypeAlias = str
"""``"speculate"``: a draft and its verdict. ``"cloud"``: one token of the cloud's own, streamed. ``"edge"``: tokens the
edge wrote alone."""


@dataclass(slots=True)
class TraceHeader:
    """The first line of a trace."""

    format: int = FORMAT
    foredraft: str = ""
    """Version that wrote the trace."""
    began_unix_us: int = 0
    """When the trace began, by the wall clock: for people, and to lay traces beside each other."""
    labels: dict[str, str] = field(default_factory=dict)
    """Whatever tells traces apart: model, draft, mode, link."""


@dataclass(slots=True)
class HintRecord:
    """One hint, as it arrived."""

    at_us: int
    exit_layer: int
    accepted: int
    token: int
    confidence: float


@dataclass(slots=True)
class RoundRecord:
    """One round, from its first drafted token to the commit. Filled as the round goes, written once it is over."""

    session: str
    """Hexadecimal; a prefix will do."""
    round: int
    kind: RoundKind = "speculate"
    base: int = 0
    """Committed tokens, prompt included, that the round builds on."""
    drafted: int = 0
    """Draft tokens in this round; those thrown away on a wrong guess are ``discarded``."""
    accepted: int | None = None
    token: int | None = None
    """The target's own token, committed after the accepted ones."""
    committed: int = 0
    """Tokens this round added to the text: ``accepted + 1`` when verified, 0 when the round came to nothing."""

    # --- the guess at this round's verdict, made while it was in flight
    guess_hit: bool | None = None
    """Whether the verdict was foreseen: what was drafted meanwhile could stay. None: nothing was drafted meanwhile."""
    ready: int = 0
    """Tokens of the next draft that were there when the verdict came."""
    discarded: int = 0
    """Tokens drafted on a wrong guess at this verdict, and thrown away."""
    chained: bool = False
    """Sent before the verdict it builds on was known."""
    hints: list[HintRecord] = field(default_factory=list)
    restarted_on_hint: bool = False
    """Whether a hint about this round made the edge drop its guess and draft from the hint's."""

    # --- the planner
    decision: str = ""
    """``speculate``, ``cloud`` or ``edge``."""
    reason: str = ""
    """Why, in the planner's words."""

    # --- instants on the edge's clock
    draft_began_at_us: int | None = None
    draft_ended_at_us: int | None = None
    sent_at_us: int | None = None
    """None for a streamed token that no message of its own asked for."""
    verdict_at_us: int | None = None
    committed_at_us: int | None = None

    # --- durations
    drafting_us: int | None = None
    """Spent inside the drafter for this round's tokens, discarded ones included; None: not measured."""
    cloud_queued_us: int | None = None
    cloud_computed_us: int | None = None
    overhead_us: int = 0
    """Spent in the loop itself: neither drafting nor waiting."""

    # --- on the wire, frames included
    bytes_up: int = 0
    bytes_down: int = 0


_Record: TypeAlias = TraceHeader | RoundRecord
_HEADER_FIELDS = tuple(item.name for item in fields(TraceHeader))
_ROUND_FIELDS = tuple(item.name for item in fields(RoundRecord))
_HINT_FIELDS = tuple(item.name for item in fields(HintRecord))
_LARGEST = 1 << 63
"""No whole number of a trace comes near it; beyond, sums would not fit into what they are shown as."""


def _scalar(value: Any) -> Any:
    """Numbers of an array library, as JSON numbers."""
    return value.item()


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_scalar).encode


def encode_line(record: _Record) -> bytes:
    """One line of JSON, newline included. Written by hand: :func:`dataclasses.asdict` takes five times as long."""
    if isinstance(record, TraceHeader):
        return (_encode({name: getattr(record, name) for name in _HEADER_FIELDS}) + "\n").encode()
    line: dict[str, Any] = {}
    for name in _ROUND_FIELDS:
        value = getattr(record, name)
        # What says nothing is left out; the reader fills it in by itself.
        if value is not None and value != "" and name != "hints":
            line[name] = value
    if record.hints:
        line["hints"] = [{name: getattr(hint, name) for name in _HINT_FIELDS} for hint in record.hints]
    return (_encode(line) + "\n").encode(errors="replace")


def decode_header(line: bytes) -> TraceHeader:
    """The header in the first line of a trace.

    Raises:
        Malformed: the line is not a header; says why.
    """
    loaded = _object(line)
    if not isinstance(loaded.get("format"), int):
        raise Malformed("not the header of a trace: it names no format.")
    labels = loaded.get("labels", {})
    try:
        if not isinstance(labels, dict):
            raise TypeError("labels")
        for label in (*labels.keys(), *labels.values()):
            _check("labels", "str", label)
        known = _known(TraceHeader, {name: value for name, value in loaded.items() if name != "labels"})
    except TypeError as error:
        raise Malformed(f"not the header of a trace: {error} is of the wrong kind.") from None
    return TraceHeader(**known, labels=labels)


def decode_round(line: bytes) -> RoundRecord:
    """The round in any other line. Fields this version does not know are passed over: traces outlive versions.

    Raises:
        Malformed: the line is not a round; says why.
    """
    loaded = _object(line)
    hints = loaded.pop("hints", [])
    try:
        if not isinstance(hints, list) or not all(isinstance(hint, dict) for hint in hints):
            raise TypeError("hints")
        return RoundRecord(
            **_known(RoundRecord, loaded), hints=[HintRecord(**_known(HintRecord, hint)) for hint in hints]
        )
    except TypeError as error:
        raise Malformed(f"not a round: a field is missing or of the wrong kind ({error}).") from None


def _known(kind: type[TraceHeader | RoundRecord | HintRecord], loaded: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that ``kind`` has fields for.

    Raises:
        TypeError: one is of another kind than its field.
    """
    known = {}
    for item in fields(kind):
        if item.name in loaded:
            value = loaded[item.name]
            if value is not None or "None" not in str(item.type):
                _check(item.name, str(item.type).removesuffix(" | None"), value)
            known[item.name] = value
    return known


def _check(name: str, kind: str, value: Any) -> None:
    """What a file holds must be what a writer writes: a number that can be added up, a text that can be written."""
    if kind == "bool":
        right = isinstance(value, bool)
    elif kind == "int":
        right = type(value) is int and -_LARGEST < value < _LARGEST
    elif kind == "float":
        right = type(value) in (int, float) and -_LARGEST < value < _LARGEST  # which is false of what is no number
    else:
        right = isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
    if not right:
        raise TypeError(name)


def _object(line: bytes) -> dict[str, Any]:
    try:
        loaded = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON ({error}).") from None
    if not isinstance(loaded, dict):
        raise Malformed("not a JSON object.")
    return loaded
