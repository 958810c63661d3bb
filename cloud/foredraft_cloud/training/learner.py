"""What is trained, whatever it is: parameters the optimiser changes, and the target's answers as rows of a head."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .shards import Text
from .texts import batch_of

__all__ = ["Learner"]

_BLOCK = 32


def rounded_to_four_bits(weight: Tensor) -> Tensor:
    """``weight`` [out, in] rounded as GGUF's Q4_1 does: 16 even steps between the least and the most of 32 neighbours."""
    blocks = weight.unflatten(1, (-1, _BLOCK))
    least, most = blocks.aminmax(dim=-1, keepdim=True)
    step = (most - least) / 15
    numbers = ((blocks - least) / step.clamp_min(1e-30)).add_(0.5).floor_().clamp_(0, 15)
    rounded: Tensor = numbers * step.half().float() + least.half().float()
    return rounded.flatten(1)


class Learner:
    """What drafts and exit heads share of a :class:`~foredraft_cloud.training.fitting.Student`; they fill the attributes."""

    parameters: dict[str, Tensor]
    """float32, by canonical name; what the optimiser changes."""
    live: dict[str, Tensor]
    """Copies in ``dtype`` that gradients are taken of."""
    dtype: torch.dtype
    device: torch.device
    row_of: Tensor
    """[vocabulary]: row of the head, or -1."""

    four_bits: Collection[str] = ()
    """Names of the matrices that will be stored in 4 bits."""

    @torch.no_grad()
    def refresh(self, stored: bool = False) -> None:
        """Take over what the optimiser has changed.

        Args:
            stored: rounded as the artifact will have it, so that the rest is learnt with these errors in place.
        """
        for name, value in self.parameters.items():
            if stored and name in self.four_bits and value.shape[1] % _BLOCK == 0:
                value = rounded_to_four_bits(value)
            if name in self.live:
                self.live[name].copy_(value)
                self.live[name].grad = None
            else:
                self.live[name] = value.detach().to(self.dtype, copy=True).requires_grad_()

    @torch.no_grad()
    def take(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Go on from what an artifact holds of such a one.

        Raises:
            ValueError: a tensor is missing, of another shape, or no number; says which.
        """
        for name, value in self.parameters.items():
            if name not in tensors or tensors[name].shape != value.shape or not np.isfinite(tensors[name]).all():
                raise ValueError(f"{name} is missing, or not what it should be")
            value.copy_(torch.from_numpy(np.asarray(tensors[name], np.float32)))
        self.refresh()

    def goal(self, texts: Sequence[Text]) -> tuple[Tensor, Tensor]:
        """The target's most probable tokens as rows of the head, and their probabilities, [M, K]; 0 where there is none."""
        batch = batch_of(texts, self.device)
        rows = self.row_of[batch.top_ids]
        return rows.clamp_min(0), torch.where(rows >= 0, batch.top_probabilities, 0.0)
