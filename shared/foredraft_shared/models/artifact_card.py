"""What an artifact says of itself, as Markdown: for which target, from what data, by which command, and how good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .artifacts import Artifact

__all__ = ["artifact_card"]

_KINDS = {"draft": "Draft", "exits": "Exit heads"}


def artifact_card(artifact: Artifact) -> str:
    """The card of a trained draft or set of exit heads; what its maker did not note is left out."""
    return "\n".join(_lines(artifact)) + "\n"


def _lines(artifact: Artifact) -> Iterator[str]:
    facts = artifact.facts
    yield f"# {_KINDS.get(artifact.kind, artifact.kind)} for {artifact.target}"
    yield ""
    yield f"* File: `{artifact.path.name}`, {artifact.path.stat().st_size / 1e6:.1f} MB"
    yield f"* Target: {artifact.target}, fingerprint {artifact.target_fingerprint}"
    data = facts.get("data")
    if isinstance(data, Mapping):
        yield (
            f"* Data: {data.get('answered_tokens')} tokens of the target's own answers to {data.get('prompts')} prompts"
        )
    for name, title in (("command", "Made by"), ("device", "Device"), ("dtype", "Arithmetic"), ("seconds", "Seconds")):
        if name in facts:
            yield f"* {title}: {f'`{facts[name]}`' if name == 'command' else facts[name]}"
    if artifact.kind == "draft":
        yield f"* Layers: {facts.get('layers')}, of which trained: {facts.get('trained_layers')}; head: {facts.get('head')}"
        yield ""
        yield from _accepted({"before training": facts.get("untrained"), "after": facts.get("validation")})
    else:
        yield f"* Heads: {facts.get('head')}, of {facts.get('vocabulary')} tokens"
        exits: Mapping[str, Any] = facts.get("exits", {})
        for layer, fact in sorted(exits.items(), key=lambda item: int(item[0])):
            yield ""
            yield f"## After layer {layer}" + ("" if fact.get("finished", True) else " (stopped before its end)")
            yield ""
            yield from _accepted({"before training": fact.get("untrained"), "after": fact.get("validation")})
            yield ""
            yield from _hinted(fact.get("hints", {}))
            yield from _calibrated(fact.get("calibrated"))


def _accepted(rows: Mapping[str, Mapping[str, Any] | None]) -> Iterator[str]:
    yield "| held-out prompts | greedy | sampled | the head holds |"
    yield "|---|---|---|---|"
    for name, found in rows.items():
        if found:
            yield f"| {name} | {_share(found['greedy'])} | {_share(found['sampled'])} | {_share(found['coverage'])} |"


def _hinted(hints: Mapping[str, Any]) -> Iterator[str]:
    if not hints:
        return
    yield (
        f"Hints, in {hints['rounds']} rounds with imagined drafts: {_share(hints['right'])} right, "
        f"calibration error {hints['ece']:.3f}."
    )
    yield ""
    yield "| confidence from | right | share of rounds |"
    yield "|---|---|---|"
    for least, precision, coverage in zip(hints["at"], hints["precision"], hints["coverage"], strict=True):
        yield f"| {least} | {_share(precision)} | {_share(coverage)} |"


def _calibrated(noted: Mapping[str, Any] | None) -> Iterator[str]:
    if noted:
        data = noted["data"]
        yield ""
        yield (
            f"Calibrated again by `{noted['command']}`, on {data['answered_tokens']} tokens of the target's own answers "
            f"to {data['prompts']} held-out prompts."
        )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
