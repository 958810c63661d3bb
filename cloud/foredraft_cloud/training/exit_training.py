"""Exit after exit: states, closed-form start, fit, foresight; every finished exit is on disk before the next begins."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foredraft_shared.errors import UsageError
from foredraft_shared.models import Model
from foredraft_shared.models.artifacts import PROMPTS, load_artifact, prompts_tensor, save_artifact

from ..stored_heads import foresight_of, stored_heads
from .calibrating import ExitsTrained, calibrated, halves_of
from .exits import ExitModel, check_exits
from .fitting import FitOptions, Progress, acceptance, fit, rounded
from .shards import Text
from .states import States
from .texts import split_by_prompt, spread, sub_vocabulary

__all__ = ["ExitOptions", "train_exits"]

_START_TEXTS = 64
"""Whose last states the closed-form start is fitted on: what it costs is the whole depth of the target."""


@dataclass(frozen=True, slots=True)
class ExitOptions:
    layers: tuple[int, ...]
    kind: str = "attention"
    """See :data:`foredraft_cloud.training.exits.KINDS`."""
    vocabulary: int = 6144
    validation: float = 0.08
    """Share of prompts held out; half of them calibrate the hints, half tell how good they are."""
    fit: FitOptions = field(default_factory=lambda: FitOptions(minutes=20.0))

    def kept_if(self) -> dict[str, Any]:
        """What must be the same for an exit of an earlier run to be kept."""
        return {"head": self.kind, "vocabulary": self.vocabulary, "validation": self.validation}


def train_exits(
    model: Model,
    texts: Sequence[Text],
    out: Path,
    options: ExitOptions,
    facts: dict[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype,
    folder: Path | None = None,
    report: Callable[[ExitsTrained], None] = lambda told: None,
) -> dict[str, Any]:
    """Train the heads of ``options.layers`` and write them to ``out``, one after another.

    Exits that an earlier run has finished there, with the same options, are kept. A
    :class:`KeyboardInterrupt` while an exit is fitted saves it as it is, and is raised again.

    Args:
        facts: noted in the artifact beside what is found.
        folder: of the target's states, kept for further runs; by default beside ``out``, until all exits are finished.

    Returns:
        The artifact's facts.

    Raises:
        UsageError: there is nothing to train on, the target has no such layer, or there is no such head.
    """
    check_exits(model, options.layers, options.kind)
    training, validation = split_by_prompt(texts, options.validation)
    if not training or not validation:
        raise UsageError(
            f"{len(texts)} texts are too few to hold {options.validation:g} of the prompts out; collect more."
        )
    halves = halves_of(validation, options.validation)
    kept, tokens = _earlier(model, out, options)
    if tokens is None:
        size = min(options.vocabulary, model.config.vocabulary)
        tokens = sub_vocabulary(training, model.config.vocabulary, size, model.tokenizer.stop_tokens)
    tensors: dict[str, NDArray[np.generic]] = {
        "head.tokens": tokens.astype(np.int32),
        PROMPTS: prompts_tensor(text.key for text in texts),
    }
    found: dict[str, Any] = {}
    for layer, (arrays, fact) in kept.items():
        tensors |= arrays
        found[str(layer)] = fact
        report(ExitsTrained(layer, "kept", 1.0))

    def save() -> dict[str, Any]:
        noted = facts | options.kept_if() | {"layers": sorted(map(int, found)), "exits": found}
        save_artifact(out, "exits", model, tensors, noted)
        return noted

    wanted = [layer for layer in options.layers if layer not in kept]
    states = States(
        folder or out.with_suffix(".states"),
        model,
        sorted({*options.layers}),
        device=device,
        dtype=dtype,
        context=max(len(text.tokens) for text in texts),
    )
    if wanted:
        positions = sum(len(text.tokens) for text in texts)
        done = 0

        def prepared(count: int) -> None:
            nonlocal done
            done += count
            report(ExitsTrained(wanted[0], "states", done / positions))

        states.prepare(texts, prepared)
        start = spread(training, _START_TEXTS)
        report(ExitsTrained(wanted[0], "start"))
        final = states.final(start)
    for layer in wanted:
        began = time.monotonic()
        head = ExitModel(model, states, layer, options.kind, tokens)
        explained = head.fit_map(start, final)
        before = acceptance(head, validation, limit=80)
        report(ExitsTrained(layer, "looked", 0.0, before))
        curve: list[dict[str, object]] = []

        def told(progress: Progress, layer: int = layer, curve: list[dict[str, object]] = curve) -> None:
            if progress.acceptance is not None:
                curve.append(progress.facts())
            stage = "looked" if progress.acceptance else "fit"
            report(ExitsTrained(layer, stage, progress.done, progress.acceptance))

        interrupted: KeyboardInterrupt | None = None
        try:
            curve.append(fit(head, training, validation, options.fit, told).facts())
        except KeyboardInterrupt as stop:
            interrupted = stop
            head.refresh()
        report(ExitsTrained(layer, "calibrate", 1.0))
        after = acceptance(head, validation)
        foresight, worth = calibrated(head, *halves)
        tensors |= head.arrays()
        found[str(layer)] = {
            "explains": rounded(explained),
            "untrained": rounded(asdict(before)),
            "validation": rounded(asdict(after)),
            "hints": rounded(asdict(worth)),
            "curve": curve,
            "finished": interrupted is None,
            "seconds": round(time.monotonic() - began, 1),
            "foresight": foresight.facts(),
        }
        save()
        report(ExitsTrained(layer, "finished", 1.0, after, worth))
        if interrupted:
            raise interrupted
    noted = save()
    if folder is None:
        shutil.rmtree(out.with_suffix(".states"), ignore_errors=True)
    return noted


def _earlier(
    model: Model, out: Path, options: ExitOptions
) -> tuple[dict[int, tuple[dict[str, NDArray[np.float32]], Any]], NDArray[np.int64] | None]:
    """Finished exits of an earlier run: arrays and facts by layer; and the tokens that they can say."""
    if not out.exists():
        return {}, None
    artifact = load_artifact(out, "exits")
    artifact.check(model)
    if any(artifact.facts.get(name) != value for name, value in options.kept_if().items()):
        raise UsageError(f"{out} holds exits trained with other options; delete it, or name another with --out.")
    stored = stored_heads(artifact, model.config, model.weights)
    finished = {layer: head for layer, head in stored.heads.items() if head.facts.get("finished")}
    for head in finished.values():
        foresight_of(artifact, head)  # or nobody could use the file
    kept = {
        layer: ({f"exits.{layer}.{name}": value for name, value in head.tensors.items()}, head.facts)
        for layer, head in finished.items()
    }
    return kept, stored.tokens
