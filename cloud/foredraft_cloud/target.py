"""What a target is: a model whose passes stop at exits and whose cache rewinds by index.

Two implementations: :class:`foredraft_cloud.decoder.DecoderTarget` (torch) and :class:`foredraft_cloud.toy.ToyTarget`
(a hash that behaves like a language model, for tests of everything around the model).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from foredraft_shared.messages import Position, SamplingParams, TokenId

from .pages import Pages, Slot

__all__ = ["ExitView", "Logits", "Pass", "Run", "Slot", "Target"]


@dataclass(frozen=True, slots=True)
class Run:
    """One session's share of a pass: feed ``tokens`` after what the slot holds.

    ``scored`` is how many of the last rows need logits: 0 for a piece of a prompt, ``len(draft) + 1`` to verify a draft,
    where ``tokens`` is whatever of the committed text is not yet in the cache, followed by the draft.
    """

    slot: Slot
    tokens: tuple[TokenId, ...]
    scored: int


class Logits(Protocol):
    """The scores of one run's scored rows at one depth."""

    def __len__(self) -> int:
        """Number of scored rows."""

    def pick(self, row: int, params: SamplingParams, position: Position) -> TokenId:
        """The token that the shared noise selects from ``row``; ``position`` is where that token would stand."""

    def foresee(
        self, row: int, drafted: TokenId | None, params: SamplingParams, position: Position, trust: float
    ) -> tuple[TokenId, float]:
        """What the full depth will probably pick, and how probably, in [0, 1]; calibrated where an exit is trained.

        Args:
            drafted: what the device drafted there, if it did: evidence as good as the device.
            trust: how often this device's drafted tokens have stood lately, in [0, 1].
        """


@dataclass(frozen=True, slots=True)
class ExitView:
    """What a pass sees at one of its exits."""

    layer: int
    """Layers computed so far."""
    final: bool
    logits: tuple[Logits | None, ...]
    """One a run, in the order of the batch; ``None`` where nothing was scored or the exit was not asked for."""


class Pass(Protocol):
    """One forward pass over a batch, stepped exit by exit."""

    def step(self, wanted: Sequence[bool] | None = None) -> ExitView:
        """Compute up to the next exit and look at it; the last call returns the view at full depth.

        Args:
            wanted: which runs are to be scored at this exit, one a run; all by default. Ignored at full depth, where
                every run with scored rows is.

        Raises:
            RuntimeError: the pass is already at full depth.
        """

    def narrow(self, kept: Sequence[int]) -> None:
        """Between two steps: take only the first ``kept`` tokens of each run any further; 0 drops the run.

        The views that follow score only the scored rows among them, and at the end the slots have grown by them alone.
        """


class Target(Protocol):
    """A decoder with exits. Used from one thread."""

    @property
    def exits(self) -> tuple[int, ...]:
        """Layers, ascending; the last is full depth."""

    @property
    def vocabulary(self) -> int:
        """Number of token ids that can be fed and picked."""

    @property
    def context(self) -> int:
        """Most tokens a slot can hold."""

    @property
    def pages(self) -> Pages:
        """Who holds which page of the cache."""

    def open(self) -> Slot:
        """A fresh, empty slot: a place in the cache for one session. It takes no room until it is fed."""

    def release(self, slot: Slot) -> None:
        """Give the slot's room back; the slot must not be used again."""

    def verify(self, batch: Sequence[Run], *, exits: bool = True) -> Pass:
        """Begin a pass over ``batch`` (each slot at most once).

        When the pass has reached full depth every slot has grown by its run's tokens; :meth:`keep` takes back what was
        not accepted. The result of a run does not depend on what else is in the batch, nor on how the tokens before it
        were divided into passes: bit for bit.

        Args:
            exits: stop at the exits on the way; without, the first step is the last.

        Raises:
            Overloaded: the cache has no room. Who has others' room to give away reserves it before.
        """

    def keep(self, slot: Slot, length: Position) -> None:
        """Rewind ``slot`` to its first ``length`` tokens."""
