"""How far the hints of an exit can be relied on, learnt from rounds on held-out prompts: at the end of training, or later.

What a hint's confidence goes by may change with a version while the heads stay what they are; then they are calibrated again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from foredraft_shared.errors import UsageError
from foredraft_shared.models import Model
from foredraft_shared.models.artifacts import PROMPTS, Artifact, prompt_hashes, prompts_tensor, revise_artifact

from ..foresight import Foresight
from ..stored_heads import damaged, stored_heads
from .exits import ExitModel
from .fitting import Acceptance, rounded
from .prompts import held_out
from .shards import Text
from .states import States
from .texts import batches, data_facts, split_by_prompt
from .verdicts import HintQuality, Played, Scored, fit_foresight, hints, imagined, quality, rounds

__all__ = ["ExitsTrained", "calibrate_exits", "calibrated", "halves_of"]

_TEXTS_A_DEVICE = 4
"""That an imagined one writes: at the first nobody knows it, at the last its drafts are well known."""
_MOST = 20_000
"""Answered tokens that rounds are played on, each half."""


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


def halves_of(validation: Sequence[Text], share: float) -> tuple[list[Text], list[Text]]:
    """Those of the held-out texts that calibrate, and those that tell how good that is; split by prompt, as many as are wanted.

    Where there are so few that a half has none, they are the same.

    Args:
        share: of all prompts that are held out.
    """
    halves: tuple[list[Text], list[Text]] = ([], [])
    answered = [0, 0]
    for text in validation:
        half = held_out(text.key, share / 2)
        if answered[half] < _MOST:
            halves[half].append(text)
            answered[half] += text.answered
    return halves if all(halves) else ([*halves[0], *halves[1]],) * 2


def calibrated(head: ExitModel, texts: Sequence[Text], others: Sequence[Text]) -> tuple[Foresight, HintQuality]:
    """Foresight from rounds on ``texts``, and what it is worth in rounds on ``others``."""
    foresight = fit_foresight(_played(head, texts))
    return foresight, quality(hints(foresight, _played(head, others)))


def _played(head: ExitModel, texts: Sequence[Text]) -> list[Played]:
    """Rounds; each text meets two devices."""
    found: list[Played] = []
    devices = map(imagined, count())
    pair, written = (next(devices), next(devices)), 0
    for group in batches(texts, 4096, 0):
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


def calibrate_exits(
    model: Model,
    texts: Sequence[Text],
    artifact: Artifact,
    noted: Mapping[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype,
    report: Callable[[ExitsTrained], None] = lambda told: None,
) -> None:
    """Calibrate finished heads for ``model`` again; their file is written when all are done, and keeps every bit of them.

    Args:
        texts: of which those are played on that were held out when the heads were trained.
        noted: of how it is done, kept with each exit beside the data.

    Raises:
        UsageError: no text was held out, or the file was changed meanwhile, or cannot be written.
        ModelDamaged: the file holds no heads, or does not say what was held out.
    """
    stored = stored_heads(artifact, model.config, model.weights)
    share = artifact.facts.get("validation")
    if not isinstance(share, float) or not 0.0 < share < 1.0:
        raise damaged(artifact, "it does not say which prompts were held out")
    _, validation = split_by_prompt(texts, share)
    halves = halves_of(validation, share)
    used = list(dict.fromkeys([*halves[0], *halves[1]]))
    if not used:
        raise UsageError(f"of {len(texts)} texts none was held out when these heads were trained; collect more.")
    exits = dict(artifact.facts["exits"])
    with TemporaryDirectory(prefix=f".{artifact.path.stem}-", dir=artifact.path.parent) as folder:
        states = States(
            Path(folder),
            model,
            tuple(stored.heads),
            device=device,
            dtype=dtype,
            context=max(len(text.tokens) for text in used),
        )
        positions, done = sum(len(text.tokens) for text in used), 0

        def prepared(more: int) -> None:
            nonlocal done
            done += more
            report(ExitsTrained(states.layers[0], "states", done / positions))

        states.prepare(used, prepared)
        for layer, found in stored.heads.items():
            report(ExitsTrained(layer, "calibrate"))
            began = time.monotonic()
            head = ExitModel(model, states, layer, "attention" if found.attends else "mlp", stored.tokens)
            head.take(found.tensors)
            foresight, worth = calibrated(head, *halves)
            seconds = round(time.monotonic() - began, 1)
            exits[str(layer)] = {
                **found.facts,
                "hints": rounded(asdict(worth)),
                "foresight": foresight.facts(),
                "calibrated": {**noted, "data": data_facts(used), "seconds": seconds},
            }
            report(ExitsTrained(layer, "finished", 1.0, hints=worth))
    asked = prompt_hashes(artifact)
    numbers = {PROMPTS: prompts_tensor(asked | {text.key for text in used})} if asked else {}
    revise_artifact(artifact, {**artifact.facts, "exits": exits}, numbers)
