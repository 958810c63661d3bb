"""The loop: batches, steps of AdamW on a cosine, and now and then a look at prompts that are held out.

The schedule goes by the clock, so that a run ends when it was said to, whatever else the machine does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .collecting import CONSIDERED, TOP_P, pick_among
from .distillation import distil
from .shards import Text
from .texts import batches, spread

__all__ = ["Acceptance", "FitOptions", "Progress", "Student", "acceptance", "fit"]


class Student(Protocol):
    """What is taught to foresee the target: a draft, or the head of an exit.

    Attributes:
        parameters: float32, by name; what the optimiser changes.
        live: copies in the arithmetic's dtype that gradients are taken of.
        tokens: [V] ids that it can say, ascending.
    """

    parameters: dict[str, Tensor]
    live: dict[str, Tensor]
    tokens: NDArray[np.int64]

    @property
    def head(self) -> Tensor:
        """[V, E], trained or not."""

    @property
    def row_of(self) -> Tensor:
        """[vocabulary]: row of the head, or -1."""

    def refresh(self, stored: bool = False) -> None:
        """Take over what the optimiser has changed; ``stored``: rounded as the artifact will have it."""

    def hidden(self, texts: Sequence[Text]) -> Tensor:
        """[M, E]: what the head is multiplied with, where the answered tokens are predicted."""

    def goal(self, texts: Sequence[Text]) -> tuple[Tensor, Tensor]:
        """Rows of the head and their probabilities, [M, K]."""

    def scores(self, texts: Sequence[Text]) -> Tensor:
        """[M, V] float32."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    minutes: float
    steps: int | None = None
    """End after so many steps, and go by them instead of the clock."""
    batch: int = 2048
    """Positions of a step, with prompts and padding."""
    learning_rate: float = 1e-3
    head_rate: float = 0.5
    """Of the head, as a share of ``learning_rate``."""
    decay: float = 0.05
    """Of matrices, per step and unit of learning rate."""
    warm_up: int = 30
    """Steps until the full learning rate."""
    floor: float = 0.03
    """Share of the learning rate at the end."""
    total_variation: float = 0.5
    """Its share of the loss towards the end; see :mod:`foredraft_cloud.training.distillation`."""
    total_variation_from: float = 0.75
    """When that begins, as a share of the schedule."""
    stored_from: float = 0.6
    """When weights begin to be rounded as they will be stored, as a share of the schedule."""
    look_every_s: float = 120.0
    looked_at: int = 80
    """Validation texts of a look on the way."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How often the draft picks the token that the target said, given the same text and noise."""

    greedy: float | None
    """On greedy answers; ``None`` without any."""
    sampled: float | None
    """On answers at the temperatures they were collected with."""
    coverage: float
    """Share of the target's tokens that the head has a row for: no draft can accept more."""
    tokens: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands."""

    step: int
    tokens: int
    """Predictions learnt from, repetitions included."""
    seconds: float
    done: float
    """Share of the schedule, in [0, 1]."""
    loss: float
    """Mean since the last look."""
    overlap: float
    acceptance: Acceptance | None
    """Of a look at validation texts; ``None`` between looks."""

    def facts(self) -> dict[str, object]:
        """As JSON has it, rounded."""
        return {name: rounded(value) for name, value in asdict(self).items()}


@torch.no_grad()
def acceptance(student: Student, texts: Sequence[Text], *, limit: int | None = None) -> Acceptance:
    """Teacher-forced on the target's own answers, at most ``limit`` of them."""
    chosen = texts if limit is None else spread(texts, limit)
    hits = {"greedy": 0, "sampled": 0}
    counts = dict(hits)
    covered = 0
    rows = student.row_of.cpu().numpy()
    for group in batches(chosen, 4096, 0):
        scores = student.scores(group)
        top = scores.topk(min(CONSIDERED, scores.shape[1]))
        logs = (top.values - scores.logsumexp(1, keepdim=True)).cpu().numpy()
        ids = student.tokens[top.indices.cpu().numpy()]
        row = 0
        for text in group:
            kind = "sampled" if text.temperature > 0 else "greedy"
            for position in range(text.start, len(text.tokens)):
                guess = pick_among(ids[row], logs[row], text.temperature, TOP_P, text.seed, position)
                hits[kind] += guess == text.tokens[position]
                row += 1
            counts[kind] += text.answered
            covered += int((rows[text.tokens[text.start :]] >= 0).sum())
    total = sum(counts.values())
    greedy, sampled = (hits[kind] / counts[kind] if counts[kind] else None for kind in ("greedy", "sampled"))
    return Acceptance(greedy, sampled, covered / max(total, 1), total)


def fit(
    student: Student,
    texts: Sequence[Text],
    validation: Sequence[Text],
    options: FitOptions,
    report: Callable[[Progress], None] = lambda progress: None,
    now: Callable[[], float] = time.monotonic,
) -> Progress:
    """Train until the schedule ends.

    Args:
        report: called after every step; with :attr:`Progress.acceptance` after every look at ``validation``.
    """
    optimiser = _AdamW(student, options)
    began = looked = now()
    recent: list[tuple[float, float]] = []
    learnt = 0
    last = Progress(0, 0, 0.0, 0.0, math.nan, math.nan, None)
    for step, group in enumerate(_forever(texts, options)):
        elapsed = now() - began
        done = step / options.steps if options.steps else elapsed / (60 * options.minutes)
        if done >= 1:
            break
        scale = options.floor + (1 - options.floor) * 0.5 * (1 + math.cos(math.pi * done))
        scale *= min(1.0, (step + 1) / options.warm_up)
        share = options.total_variation if done >= options.total_variation_from else 0.0
        loss, overlap = distil(student.hidden(group), student.head, *student.goal(group), share)
        loss.backward()
        optimiser.step(scale, stored=done >= options.stored_from)
        learnt += sum(text.answered for text in group)
        recent.append((float(loss.detach()), float(overlap)))
        found = None
        if now() - looked >= options.look_every_s and validation:
            found = acceptance(student, validation, limit=options.looked_at)
            looked = now()
        means = np.mean(recent, axis=0)
        last = Progress(step + 1, learnt, now() - began, min(done, 1.0), float(means[0]), float(means[1]), found)
        report(last)
        if found:
            recent.clear()
    student.refresh(stored=True)
    return last


def _forever(texts: Sequence[Text], options: FitOptions) -> Iterator[list[Text]]:
    epoch = 0
    while True:
        yield from batches(texts, options.batch, options.seed + epoch)
        epoch += 1


class _AdamW:
    """AdamW (1711.05101) on the float32 parameters, gradients clipped to a norm of 1."""

    def __init__(
        self, student: Student, options: FitOptions, mean_rate: float = 0.1, square_rate: float = 0.02
    ) -> None:
        self._student, self._options = student, options
        self._mean_rate, self._square_rate = mean_rate, square_rate
        self._means = {name: torch.zeros_like(value) for name, value in student.parameters.items()}
        self._squares = {name: torch.zeros_like(value) for name, value in student.parameters.items()}
        self._steps = 0

    @torch.no_grad()
    def step(self, scale: float, stored: bool) -> None:
        self._steps += 1
        gradients: dict[str, Tensor] = {}
        for name, value in self._student.live.items():
            assert value.grad is not None
            gradients[name] = value.grad.float()
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
        mean_bias = 1 - (1 - self._mean_rate) ** self._steps
        square_bias = 1 - (1 - self._square_rate) ** self._steps
        for name, gradient in gradients.items():
            gradient.mul_(min(1.0, 1.0 / (norm + 1e-6)))
            parameter, mean, square = self._student.parameters[name], self._means[name], self._squares[name]
            mean.lerp_(gradient, self._mean_rate)
            square.mul_(1 - self._square_rate).addcmul_(gradient, gradient, value=self._square_rate)
            rate = self._options.learning_rate * scale
            rate *= self._options.head_rate if name == "head.weight" else 1.0
            if parameter.ndim == 2:
                parameter.mul_(1 - self._options.decay * rate)
            parameter.addcdiv_(mean, (square / square_bias).sqrt_().add_(1e-8), value=-rate / mean_bias)
        self._student.refresh(stored)


def rounded(value: object) -> object:
    """Floats with four significant places after the point, all the way down."""
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return value
