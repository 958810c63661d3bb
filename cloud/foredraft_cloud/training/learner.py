"""What is trained, whatever it is: parameters the optimiser changes, and the target's answers as rows of a head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .shards import Text
from .texts import batch_of

__all__ = ["Learner"]


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

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over what the optimiser has changed."""
        for name, value in self.parameters.items():
            if name in self.live:
                self.live[name].copy_(value)
                self.live[name].grad = None
            else:
                self.live[name] = value.detach().to(self.dtype, copy=True).requires_grad_()

    def goal(self, texts: Sequence[Text]) -> tuple[Tensor, Tensor]:
        """The target's most probable tokens as rows of the head, and their probabilities, [M, K]; 0 where there is none."""
        batch = batch_of(texts, self.device)
        rows = self.row_of[batch.top_ids]
        return rows.clamp_min(0), torch.where(rows >= 0, batch.top_probabilities, 0.0)
