"""Exit after exit: states, closed-form start, fit, foresight; every finished exit is on disk before the next begins."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foredraft_shared.errors import UsageError
from foredraft_shared.models import Model
from foredraft_shared.models.artifacts import PROMPTS, load_artifact, prompts_tensor, save_artifact

from ..stored_heads import stored_heads
from .exits import ExitModel, check_exits
from .fitting import Acceptance, FitOptions, Progress, acceptance, fit, rounded
from .prompts import held_out
from .shards import Text
from .states import States
from .texts import batches, split_by_prompt, sub_vocabulary
from .verdicts import HintQuality, Played, Scored, fit_foresight, hints, imagined, quality, rounds

__all__ = ["ExitOptions", "ExitsTrained", "train_exits"]

_START_TEXTS = 64
"""Whose last states the closed-form start is fitted on: what it costs is the whole depth of the target."""


_TEXTS_A_DEVICE = 4
"""That an imagined one writes: at the first nobody knows it, at the last its drafts are well known."""


@dataclass(frozen=True, slots=True)
class ExitOptions:
    layers: tuple[int, ...]
    kind: str = "attention"
    """See :data:`foredraft_cloud.training.exits.KINDS`."""
    vocabulary: int = 6144
    validation: float = 0.08
    """Share of prompts held out; half of them calibrate the hints, half tell how good they are."""
    calibrated_on: int = 20_000
    """Most held-out tokens that rounds are played on, each half."""
    fit: FitOptions = field(default_factory=lambda: FitOptions(minutes=20.0))

    def kept_if(self) -> dict[str, Any]:
        """What must be the same for an exit of an earlier run to be kept."""
        return {"head": self.kind, "vocabulary": self.vocabulary, "validation": self.validation}


@dataclass(frozen=True, slots=True)
class ExitsTrained:
    """What ``report`` is told."""

    layer: int
    stage: str
    """``states``, ``start``, ``fit``, ``looked``, ``calibrate``, ``kept`` or ``finished``."""
    done: float = 0.0
    """Share of the stage, in [0, 1]."""
    found: Acceptance | None = None
    hints: HintQuality | None = None


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
        start = training[:: max(1, len(training) // _START_TEXTS)][:_START_TEXTS]
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
        foresight, worth = _calibrated(head, validation, options)
        tensors |= head.arrays()
        found[str(layer)] = {
            "explains": rounded(explained),
            "untrained": rounded(asdict(before)),
            "validation": rounded(asdict(after)),
            "hints": rounded(asdict(worth)),
            "curve": curve,
            "finished": interrupted is None,
            "seconds": round(time.monotonic() - began, 1),
            "foresight": foresight,
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
    kept = {
        layer: ({f"exits.{layer}.{name}": value for name, value in head.tensors.items()}, head.facts)
        for layer, head in stored.heads.items()
        if head.facts.get("finished")
    }
    return kept, stored.tokens


def _calibrated(
    head: ExitModel, validation: Sequence[Text], options: ExitOptions
) -> tuple[dict[str, Any], HintQuality]:
    """Foresight from one half of the held-out prompts, and what it is worth on the other."""
    halves: tuple[list[Text], list[Text]] = ([], [])
    for text in validation:
        halves[held_out(text.key, options.validation / 2)].append(text)
    played = [_played(head, half, options.calibrated_on) for half in halves]
    if not played[0] or not played[1]:
        played = [played[0] or played[1]] * 2
    foresight = fit_foresight(played[0])
    return foresight.facts(), quality(hints(foresight, played[1]))


def _played(head: ExitModel, texts: Sequence[Text], most: int) -> list[Played]:
    """Rounds on the first texts that hold ``most`` answered tokens; each text meets two devices."""
    found: list[Played] = []
    chosen: list[Text] = []
    for text in texts:
        if sum(each.answered for each in chosen) < most:
            chosen.append(text)
    devices = map(imagined, count())
    pair, written = (next(devices), next(devices)), 0
    for group in batches(chosen, 4096, 0):
        scores = iter(head.scores(group).cpu().numpy())
        for text in group:
            scored = Scored(text, np.stack(list(islice(scores, text.answered))))
            for device in pair:
                found.extend(rounds(scored, head.tokens, device))
            written += 1
            if written % _TEXTS_A_DEVICE == 0:
                pair = next(devices), next(devices)
    random = np.random.default_rng(0)
    return [found[index] for index in random.permutation(len(found))]
