"""Drafting with PyTorch: the plainest decoder that reads our weights. The only module of the device that needs torch.

Meant for GPUs (Jetson, workstation) and as the reference the other backends are tested against; on a CPU the ONNX
drafter is faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.errors import BackendMissing, ModelDamaged
from foredraft_shared.messages import Position
from foredraft_shared.models import ModelConfig

from .rope import rotary_tables
from .text import CachedText

try:
    import torch
    from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
except ImportError:
    raise BackendMissing("The torch drafter needs PyTorch: pip install 'foredraft[torch]'.") from None

__all__ = ["TorchDrafter"]


class TorchDrafter(CachedText):
    """A decoder, or its first layers, in eager PyTorch.

    Args:
        config: shape of the model.
        weights: canonical names (:mod:`foredraft_shared.models`) to arrays; ``head.tokens`` as for the ONNX exporter.
        fingerprint: of the tokenizer the model speaks.
        layers: the first so many layers; all by default.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``cpu``, ``cuda``…
        threads: cores a step may use; PyTorch keeps one such number a process, so ``None`` leaves it alone.

    Raises:
        ModelDamaged: a weight is missing.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, NDArray[np.float32]],
        *,
        fingerprint: str = "",
        layers: int | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        threads: int | None = None,
        context: int = 8192,
    ) -> None:
        ids = np.asarray(weights["head.tokens"], np.int32) if "head.tokens" in weights else None
        super().__init__(fingerprint, min(context, config.context), config.vocabulary, ids)
        if threads is not None:
            torch.set_num_threads(threads)
        self._config = config
        self._layers = config.layers if layers is None else min(layers, config.layers)
        self._device = torch.device(device)
        self._dtype: torch.dtype = getattr(torch, dtype)
        unused = tuple(f"layers.{layer}." for layer in range(self._layers, config.layers))
        self._weights = {
            name: torch.from_numpy(np.array(weights[name], np.float32)).to(self._device, self._dtype)
            for name in weights
            if name != "head.tokens" and not name.startswith(unused)
        }
        if "embedding.weight" not in self._weights or "norm.weight" not in self._weights:
            raise ModelDamaged("The checkpoint lacks its embedding or its final norm; fetch the model again.")
        tables = rotary_tables(config.rope, config.head_dim, self.context)
        # Kept in float32: positions beyond 256 are not told apart by bfloat16 angles.
        self._cosines, self._sines = (torch.from_numpy(table).to(self._device) for table in tables)
        self._cache = self._empty(0)

    def _read(self, start: Position, stop: Position) -> NDArray[np.float32]:
        return self._read_rows(start, stop, -1)

    def _read_all(self, start: Position, stop: Position) -> NDArray[np.float32]:
        return self._read_rows(start, stop, slice(None))

    def _read_rows(self, start: Position, stop: Position, rows: int | slice) -> NDArray[np.float32]:
        """Read the text from ``start`` to ``stop``; logits ``[…, head]`` after the tokens read that ``rows`` picks."""
        self._make_room(start, stop)
        with torch.inference_mode():
            tokens = torch.tensor(self._text[start:stop], device=self._device)
            logits: NDArray[np.float32] = self._scores(self._forward(tokens, start)[rows]).float().cpu().numpy()
        return logits

    def _make_room(self, cached: Position, needed: Position) -> None:
        if needed > self._cache.shape[3]:
            grown = self._empty(min(self.context, max(512, 2 * needed)))
            grown[:, :, :, :cached] = self._cache[:, :, :, :cached]
            self._cache = grown

    def _empty(self, capacity: int) -> Any:
        """``[layers, key and value, kv_heads, capacity, head_dim]``."""
        shape = (self._layers, 2, self._config.kv_heads, capacity, self._config.head_dim)
        return torch.zeros(shape, dtype=self._dtype, device=self._device)

    def _forward(self, tokens: Any, start: Position) -> Any:
        """Read ``tokens`` ``[rows]`` at ``start``; ``[rows, hidden]`` behind all layers."""
        config, weights = self._config, self._weights
        rows = len(tokens)
        cosines, sines = self._cosines[start : start + rows], self._sines[start : start + rows]
        own = torch.arange(start, start + rows, device=self._device)[:, None]
        keys = torch.arange(start + rows, device=self._device)[None, :]
        mask = keys <= own  # [rows, keys]
        if config.sliding_window:
            mask &= keys > own - config.sliding_window
        state = weights["embedding.weight"][tokens]
        for layer in range(self._layers):
            prefix = f"layers.{layer}"
            normed = self._norm(state, f"{prefix}.attn_norm.weight")
            query, key, value = (self._heads(normed, f"{prefix}.attn.{part}") for part in "qkv")
            cache = self._cache[layer, :, :, : start + rows]
            cache[0, :, start:] = _rotate(key, cosines, sines)
            cache[1, :, start:] = value
            mixed = scaled_dot_product_attention(
                _rotate(query, cosines, sines)[None], cache[0][None], cache[1][None], mask, enable_gqa=True
            )
            joined = mixed[0].transpose(0, 1).reshape(rows, -1)
            state = state + self._linear(joined, f"{prefix}.attn.o")
            normed = self._norm(state, f"{prefix}.mlp_norm.weight")
            gate = silu(self._linear(normed, f"{prefix}.mlp.gate"))
            state = state + self._linear(gate * self._linear(normed, f"{prefix}.mlp.up"), f"{prefix}.mlp.down")
        return state

    def _scores(self, state: Any) -> Any:
        """``[…, head]``"""
        head = self._weights.get("head.weight", self._weights["embedding.weight"])
        return linear(self._norm(state, "norm.weight"), head)

    def _heads(self, normed: Any, name: str) -> Any:
        """``[heads, rows, head_dim]``."""
        heads = self._linear(normed, name).unflatten(-1, (-1, self._config.head_dim))
        if f"{name}_norm.weight" in self._weights:
            heads = self._norm(heads, f"{name}_norm.weight")
        return heads.transpose(0, 1)

    def _linear(self, source: Any, name: str) -> Any:
        return linear(source, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias"))

    def _norm(self, source: Any, name: str) -> Any:
        gamma = self._weights[name]
        return rms_norm(source, gamma.shape, gamma, self._config.norm_eps)


def _rotate(heads: Any, cosines: Any, sines: Any) -> Any:
    """Turn the two halves of each head ``[heads, rows, head_dim]`` against each other."""
    first, second = heads.float().chunk(2, -1)
    turned = torch.cat([first * cosines - second * sines, second * cosines + first * sines], -1)
    return turned.to(heads.dtype)
