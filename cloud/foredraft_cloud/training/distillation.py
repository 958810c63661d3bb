"""The loss: how far a draft's distribution is from the target's, where that costs acceptance.

With shared noise two distributions agree with probability at least (1 - TV) / (1 + TV) (see
:mod:`foredraft_shared.sampling`), so total variation is what matters in the end; but its gradient vanishes where the draft
gives a token next to nothing, so a fresh draft learns by the Kullback-Leibler divergence first. Of the target only the most
probable tokens are known, and of these the draft's head may lack some; the divergence is taken over those it has, without
renormalising: the rest of the mass belongs to no row of the head.

Head and loss are one function, in chunks of rows: scores over a vocabulary, and their gradient, never exist for a whole
large batch at once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor

__all__ = ["distil"]

_ROWS = 256
"""Whose scores exist at a time in float32."""
_HELD = 2048
"""Whose gradients do, in the arithmetic's type: a gradient of the whole head is added up as seldom as that."""


class _Distil(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, ids: Tensor, target: Tensor, share: float) -> Any:
        count = len(hidden)
        hidden_gradient = torch.empty_like(hidden)
        trained = ctx.needs_input_grad[1]
        head_gradient = torch.zeros(head.shape if trained else (0,), dtype=torch.float32, device=head.device)
        divergence = overlap = torch.zeros((), device=head.device)
        for first in range(0, count, _HELD):
            held = hidden[first : first + _HELD]
            gradients = torch.empty(len(held), len(head), dtype=hidden.dtype, device=head.device)
            for start in range(first, first + len(held), _ROWS):
                rows = slice(start, min(start + _ROWS, first + len(held)))
                wanted, at = target[rows], ids[rows]  # [R, K]
                draft = F.linear(hidden[rows], head).float().softmax(1)  # [R, V]
                known = draft.gather(1, at)
                logs = wanted.clamp_min(1e-20).log() - known.clamp_min(1e-20).log()
                divergence = divergence + (wanted * logs).sum()
                overlap = overlap + torch.minimum(known, wanted).sum()
                # TV = 1 - sum min(target, draft): only tokens with too little can gain anything.
                under = torch.where((known < wanted) & (wanted > 0), known, 0.0)
                pulled = (1 - share) * wanted + share * under
                gradient = draft.mul_(pulled.sum(1, keepdim=True)).scatter_add_(1, at, -pulled)
                gradients[start - first : rows.stop - first] = gradient.mul_(1 / count)
            hidden_gradient[first : first + len(held)] = gradients @ head
            if trained:
                head_gradient += gradients.t() @ held
        ctx.save_for_backward(hidden_gradient, head_gradient.to(head.dtype))
        loss = (1 - share) * divergence / count + share * (1 - overlap / count)
        overlap = overlap / count
        ctx.mark_non_differentiable(overlap)
        return loss, overlap

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        hidden_gradient, head_gradient = ctx.saved_tensors
        for_head = head_gradient * gradients[0] if ctx.needs_input_grad[1] else None
        return hidden_gradient * gradients[0], for_head, None, None, None


def distil(
    hidden: Tensor, head: Tensor, ids: Tensor, probabilities: Tensor, total_variation: float
) -> tuple[Tensor, Tensor]:
    """Loss of M predictions, and how much of the target's mass the draft shares.

    Args:
        hidden: [M, E], after the final norm.
        head: [V, E]; left alone if it asks for no gradient.
        ids: [M, K] rows of ``head``, those of the target's most probable tokens.
        probabilities: [M, K], the target's; 0 where ``head`` has no such row.
        total_variation: its share of the loss, in [0, 1]; the rest is Kullback-Leibler divergence, in nats.

    Returns:
        (mean loss, mean overlap in [0, 1]), scalars; only the loss has a gradient.
    """
    loss, overlap = _Distil.apply(hidden, head, ids, probabilities, total_variation)  # type: ignore[no-untyped-call]
    return loss, overlap
