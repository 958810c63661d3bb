"""The decoder's arithmetic in compiled kernels, behind the functions of :class:`~foredraft_cloud.transformer.Transformer`.

The same mathematics; in bfloat16 less is rounded on the way (what comes out of a product stays float32), so that the bits are
not those of torch. Every number of rows is a shape of its own: nothing is padded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor

from foredraft_shared.kernels import library as c
from foredraft_shared.kernels.memory import WeightMemory
from foredraft_shared.models.config import ModelConfig

from .attention import AttentionShape, Piece
from .linear import Linear
from .quantised import quantise
from .reading import CONSIDERED, Reader, Said
from .transformer import Layer, Transformer, Weights

__all__ = ["NativePlan", "NativeTransformer"]

_PANEL = 64
_STEP_BYTES, _TILE_STEPS = 4, 16


@dataclass(frozen=True, slots=True)
class NativePlan:
    """Where the keys of each row lie."""

    positions: Tensor  # [R] int64, -1 where a row only fills up
    starts: Tensor  # [R] int64, of the row's session in ``pages``
    pages: Tensor  # int64

    def rows(self, turns: Tensor | None, arena_pages: int) -> c.Rows:
        return c.Rows(
            len(self.positions),
            self.positions.data_ptr(),
            self.starts.data_ptr(),
            self.pages.data_ptr(),
            None if turns is None else turns.data_ptr(),
            arena_pages,
        )


class NativeLinear:
    """See :data:`foredraft_cloud.linear.Linear`: [rows, in] of any float -> [rows, out] float32."""

    def __init__(
        self, kernels: ctypes.CDLL, memory: WeightMemory, weight: Tensor, bias: Tensor | None, quantised: bool
    ) -> None:
        self._kernels = kernels
        outputs, inputs = weight.shape
        scale = shift = None
        if quantised:
            weight, scales = quantise(weight.float())
            scale, shift = scales.flatten(), weight.sum(1, dtype=torch.int32).mul_(-128)
        else:
            weight = weight.bfloat16()
        bias = None if bias is None else bias.float().contiguous()
        panels = memory.keep(_panels(weight).view(torch.uint8).numpy())
        self._kept = (panels, scale, shift, bias)
        kind = c.Kind.INT8 if quantised else c.Kind.BFLOAT16
        addresses = (None if each is None else each.data_ptr() for each in (scale, shift, bias))
        self.product = c.Product(kind, panels.ctypes.data, *addresses, inputs, outputs)

    def __call__(self, rows: Tensor, norm: Tensor | None = None, eps: float = 0.0) -> Tensor:
        """
        Args:
            norm: [in] weight of an RMS norm that comes first.
        """
        rows = rows.float().contiguous()
        assert rows.shape[1] == self.product.inputs
        result = torch.empty(len(rows), self.product.outputs)
        weight = None if norm is None else norm.data_ptr()
        self._kernels.foredraft_product(
            self.product, weight, eps, rows.data_ptr(), len(rows), result.data_ptr(), torch.get_num_threads()
        )
        return result


def _panels(weight: Tensor) -> Tensor:
    """[out, in] -> [panels, steps, 64, inputs of a step], filled up with zeros, the steps to sixteens."""
    step = _STEP_BYTES // weight.itemsize
    outputs, inputs = weight.shape
    filled = F.pad(weight, (0, -inputs % (_TILE_STEPS * step), 0, -outputs % _PANEL))
    return filled.unflatten(1, (-1, step)).unflatten(0, (-1, _PANEL)).transpose(1, 2).contiguous()  # type: ignore[no-any-return]


class NativeTransformer(Transformer):
    """
    Args:
        kernels: :func:`foredraft_shared.kernels.library.library`.
        quantised: W8A8; bfloat16 otherwise.
    """

    any_rows = True

    def __init__(
        self, config: ModelConfig, weights: Weights, context: int, kernels: ctypes.CDLL, *, quantised: bool = False
    ) -> None:
        self._kernels, self._memory = kernels, WeightMemory()
        self._structures: dict[int, tuple[Layer, c.Layer]] = {}
        self._stacks: dict[tuple[int, int], tuple[Sequence[Layer], ctypes.Array[c.Layer]]] = {}
        self._readers: dict[int, tuple[Reader, c.Exit]] = {}
        self._sizes = c.Sizes(
            config.hidden,
            config.heads,
            config.kv_heads,
            config.head_dim,
            config.feed_forward,
            config.sliding_window or 0,
            config.norm_eps,
        )
        super().__init__(config, weights, torch.bfloat16, context, quantised=quantised)
        self.product_dtype = torch.float32

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> NativeLinear:
        return NativeLinear(self._kernels, self._memory, weight, bias, self.quantised)

    def pack_roughly(self, weight: Tensor, bias: Tensor | None = None) -> NativeLinear:
        return NativeLinear(self._kernels, self._memory, weight, bias, quantised=True)

    def plan(self, pieces: Sequence[Piece], rows: int, shape: AttentionShape) -> NativePlan:  # type: ignore[override]
        positions, starts = [-1] * rows, [0] * rows
        pages: list[int] = []
        for piece in pieces:
            mine = slice(piece.first, piece.first + piece.count)
            positions[mine] = range(piece.position, piece.position + piece.count)
            starts[mine] = [len(pages)] * piece.count
            pages += piece.pages
        return NativePlan(torch.tensor(positions), torch.tensor(starts), torch.tensor(pages))

    def project(self, layer: Layer, hidden: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        rows, turns = len(hidden), turns.contiguous()
        queries = torch.empty(rows, self.config.heads, self.config.head_dim, dtype=self.dtype)
        keys_values = torch.empty(rows, 2, self.config.kv_heads, self.config.head_dim, dtype=self.dtype)
        self._kernels.foredraft_project(
            self._structure(layer),
            self._sizes,
            hidden.data_ptr(),
            turns.data_ptr(),
            rows,
            queries.data_ptr(),
            keys_values.data_ptr(),
            torch.get_num_threads(),
        )
        return queries, keys_values

    def attend(self, plan: NativePlan, arena: Tensor, queries: Tensor, keys_values: Tensor) -> Tensor:  # type: ignore[override]
        assert arena.is_contiguous()
        assert queries.is_contiguous()
        assert keys_values.is_contiguous()
        attended = torch.empty(len(queries), self.query_width)
        self._kernels.foredraft_attend(
            self._sizes,
            plan.rows(None, arena.shape[2]),
            arena.data_ptr(),
            queries.data_ptr(),
            keys_values.data_ptr(),
            attended.data_ptr(),
            torch.get_num_threads(),
        )
        return attended

    def finish(self, layer: Layer, hidden: Tensor, attended: Tensor) -> Tensor:
        attended = attended.float().contiguous()
        self._kernels.foredraft_finish(
            self._structure(layer),
            self._sizes,
            hidden.data_ptr(),
            attended.data_ptr(),
            len(hidden),
            torch.get_num_threads(),
        )
        return hidden

    def through(  # type: ignore[override]
        self, layers: Sequence[Layer], caches: Tensor, hidden: Tensor, turns: Tensor, plan: NativePlan
    ) -> Tensor:
        assert hidden.is_contiguous()
        assert turns.is_contiguous()
        assert caches[0].is_contiguous()
        self._kernels.foredraft_layers(
            self._stack(layers),
            len(layers),
            self._sizes,
            plan.rows(turns, caches.shape[3]),
            caches.data_ptr(),
            caches.stride(0),
            hidden.data_ptr(),
            torch.get_num_threads(),
        )
        return hidden

    def normed_product(self, product: Linear, norm: Tensor, hidden: Tensor) -> Tensor:
        assert isinstance(product, NativeLinear)
        return product(hidden, norm, self.config.norm_eps)

    def look(  # type: ignore[override]
        self,
        head: Reader,
        layer: int,
        caches: Tensor,
        hidden: Tensor,
        turns: Tensor,
        plan: NativePlan,
        rows: Sequence[int],
    ) -> tuple[Tensor, list[Said]]:
        assert hidden.is_contiguous()
        assert turns.is_contiguous()
        assert caches[0].is_contiguous()
        reader, size, count = self._reader(head), len(head.tokens), len(rows)
        assert count <= len(hidden), "there is room for as many as there are"
        assert all(0 <= row < len(hidden) for row in rows)
        considered = min(CONSIDERED, size)
        scores = torch.empty(count, size)
        chosen, tokens = (ctypes.c_int64 * count)(*rows), (ctypes.c_int64 * (count * considered))()
        logs, doubts = (ctypes.c_float * (count * considered))(), (ctypes.c_float * count)()
        self._kernels.foredraft_exit(
            reader,
            self._sizes,
            plan.rows(turns, caches.shape[3]),
            caches.data_ptr() + layer * caches.stride(0) * caches.element_size(),
            hidden.data_ptr(),
            chosen,
            count,
            considered,
            scores.data_ptr(),
            tokens,
            logs,
            doubts,
            torch.get_num_threads(),
        )
        parts = [slice(first, first + considered) for first in range(0, count * considered, considered)]
        return scores, [Said(tokens[part], logs[part], doubt) for part, doubt in zip(parts, doubts, strict=True)]

    def _reader(self, head: Reader) -> c.Exit:
        known = self._readers.get(id(head))
        if known is None:
            assert head.layer is not None
            assert isinstance(head.map, NativeLinear)
            assert isinstance(head.rows, NativeLinear)
            products = head.map.product, head.rows.product
            structure = c.Exit(self._structure(head.layer), head.norm.data_ptr(), *products, head.tokens.data_ptr())
            self._readers[id(head)] = known = head, structure
        return known[1]

    def _stack(self, layers: Sequence[Layer]) -> ctypes.Array[c.Layer]:
        known = self._stacks.get((id(layers[0]), len(layers)))
        if known is None or known[0] != layers:
            known = layers, (c.Layer * len(layers))(*map(self._structure, layers))
            self._stacks[id(layers[0]), len(layers)] = known
        return known[1]

    def _structure(self, layer: Layer) -> c.Layer:
        known = self._structures.get(id(layer))
        if known is None:
            norm = layer.query_key_norm
            products = [layer.qkv, layer.output, layer.gate_up, layer.down]
            qkv, output, gate_up, down = (each.product for each in products if isinstance(each, NativeLinear))
            structure = c.Layer(
                layer.attention_norm.data_ptr(),
                qkv,
                None if norm is None else norm.data_ptr(),
                output,
                layer.mlp_norm.data_ptr(),
                gate_up,
                down,
            )
            self._structures[id(layer)] = known = layer, structure  # which keeps the layer, and so its id
        return known[1]
