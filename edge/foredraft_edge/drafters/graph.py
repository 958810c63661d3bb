"""A decoder as an ONNX graph: the layers of a checkpoint written node by node, weights in the precision asked for.

The graph takes rows of one text and returns logits for the rows asked for::

    tokens [1, rows] int64             what to read
    wanted [n] int64                   rows whose logits are wanted (indices into ``tokens``)
    last [1] int32                     position of the last row: rows held before + rows - 1
    length [] int32                    rows held before + rows
    key.{i}, value.{i}                 [1, kv_heads, capacity, head_dim] float32, written in place
    → logits [1, n, head] float32      ``head``: vocabulary, or the rows of a sub-vocabulary head
    → key.{i}.out, value.{i}.out       to be bound to the buffers of key.{i}, value.{i}

``GroupQueryAttention`` rotates, writes the new keys and values at their place and attends, in one node; where input and
output are one buffer nothing is copied, and to take tokens back is to pass a smaller ``length``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from foredraft_shared.errors import ModelDamaged, ModelUnsupported
from foredraft_shared.models.config import ModelConfig

from .quantise import BLOCK, blocks
from .rope import rotary_tables

__all__ = ["build_graph"]

CONTRIB = "com.microsoft"
BITS = {"int8": 8, "int4": 4}


class _Builder:
    """Collects nodes and constants; every method returns the name of what it made."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: NDArray[Any]) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, domain=domain, **attributes))
        return output

    def linear(self, name: str, source: str, weight: NDArray[np.float32], bias: NDArray[np.float32] | None) -> str:
        """``source @ weight.T + bias``; ``weight`` is ``[out, in]``."""
        rows, columns = weight.shape
        if self.precision in BITS and columns % BLOCK == 0:
            packed = blocks(weight, BITS[self.precision])
            inputs = [
                source,
                self.constant(f"{name}.blocks", packed.data),
                self.constant(f"{name}.scales", packed.scales),
            ]
            if packed.zeros is not None:
                inputs.append(self.constant(f"{name}.zeros", packed.zeros))
            # accuracy_level 4: activations are quantised to int8 too, and the products are integer ones.
            product = self.node(
                "MatMulNBits",
                inputs,
                f"{name}.product",
                CONTRIB,
                K=columns,
                N=rows,
                bits=packed.bits,
                block_size=BLOCK,
                accuracy_level=4,
            )
        else:
            product = self.node(
                "MatMul", [source, self.constant(f"{name}.weight", weight.T.astype(np.float32))], f"{name}.product"
            )
        if bias is None:
            return product
        return self.node("Add", [product, self.constant(f"{name}.bias", bias.astype(np.float32))], f"{name}.sum")

    def embedding(self, source: str, weight: NDArray[np.float32], tied: bool) -> str:
        """Rows of ``weight`` for the ids in ``source``: ``[1, rows, hidden]``; never the whole table in float32."""
        hidden = weight.shape[1]
        if self.precision == "float32":
            return self.node("Gather", [self.constant("embedding.weight", weight), source], "embedding")
        if hidden % BLOCK:
            half = self.constant("embedding.weight", weight.astype(np.float16))
            return self.node("Cast", [self.node("Gather", [half, source], "embedding.half")], "embedding", to=1)
        # With a tied int8 head the two share these bytes, in the layout of MatMulNBits: 8-bit blocks around 128.
        name = "head" if tied and self.precision == "int8" else "embedding"
        packed = blocks(weight, 8)
        rows = self.node("Gather", [self.constant(f"{name}.blocks", packed.data), source], "embedding.row_bytes")
        scales = self.node("Gather", [self.constant(f"{name}.scales", packed.scales), source], "embedding.row_scales")
        numbers = self.node("Cast", [rows], "embedding.numbers", to=TensorProto.FLOAT)
        centre = self.constant("embedding.centre", np.float32(128).reshape(1))
        centred = self.node("Sub", [numbers, centre], "embedding.centred")
        axis = self.constant("embedding.axis", np.array([-1], np.int64))
        factors = self.node("Unsqueeze", [scales, axis], "embedding.factors")
        product = self.node("Mul", [centred, factors], "embedding.blocked")
        shape = self.constant("embedding.shape", np.array([0, 0, hidden], np.int64))
        return self.node("Reshape", [product, shape], "embedding")

    def head_norm(self, name: str, source: str, weight: NDArray[np.float32], heads: int, eps: float) -> str:
        """RMS norm on each head (Qwen3); ``[1, rows, heads * head_dim]`` in and out."""
        width = weight.shape[0]
        split = self.constant(f"shape.{heads}x{width}", np.array([0, 0, heads, width], np.int64))
        joined = self.constant(f"shape.{heads * width}", np.array([0, 0, heads * width], np.int64))
        apart = self.node("Reshape", [source, split], f"{name}.apart")
        gamma = self.constant(f"{name}.weight", weight)
        normed = self.node("SimplifiedLayerNormalization", [apart, gamma], f"{name}.normed", axis=-1, epsilon=eps)
        return self.node("Reshape", [normed, joined], f"{name}.joined")


def build_graph(
    config: ModelConfig,
    weights: Mapping[str, NDArray[np.float32]],
    *,
    precision: str = "int8",
    context: int | None = None,
) -> onnx.ModelProto:
    """Write a decoder as an ONNX model: its first ``config.layers`` layers under the final norm and head.

    Args:
        weights: canonical names (:mod:`foredraft_shared.models`) to ``float32`` arrays ``[out, in]``. May hold
            ``head.tokens`` ``[head] int32``, ascending: the ids the rows of ``head.weight`` stand for.
        precision: of the matrices: ``float32``, ``int8`` or ``int4``. Activations between them are ``float32``.
        context: longest text; the rotary tables are that long. The checkpoint's own by default.

    Raises:
        ModelUnsupported: a shape or variant that the operators do not take.
        ModelDamaged: a weight is missing.
    """
    if precision != "float32" and precision not in BITS:
        raise ModelUnsupported(f"Precision {precision!r} is not known; use float32, int8 or int4.")
    if config.head_dim % 16:
        raise ModelUnsupported(f"Heads of {config.head_dim} numbers do not fit onnxruntime; use the torch drafter.")

    def weight(name: str) -> NDArray[np.float32]:
        try:
            return np.asarray(weights[name], np.float32)
        except KeyError:
            raise ModelDamaged(f"The checkpoint lacks {name!r}; fetch the model again.") from None

    def joined(names: Sequence[str]) -> NDArray[np.float32] | None:
        found = [np.asarray(weights[name], np.float32) for name in names if name in weights]
        return np.concatenate(found) if len(found) == len(names) else None

    graph = _Builder(precision)
    eps = config.norm_eps
    table = weight("embedding.weight")
    tied = "head.weight" not in weights
    state = graph.embedding("tokens", table, tied)
    tables = rotary_tables(config.rope, config.head_dim, context or config.context)
    cosines, sines = graph.constant("cosines", tables[0]), graph.constant("sines", tables[1])
    widths = [config.heads * config.head_dim, config.kv_heads * config.head_dim, config.kv_heads * config.head_dim]
    qkv_split = graph.constant("split.qkv", np.array(widths, np.int64))
    gate_split = graph.constant("split.gate", np.array([config.feed_forward] * 2, np.int64))
    caches: list[onnx.ValueInfoProto] = []
    presents: list[onnx.ValueInfoProto] = []

    def norm(name: str, source: str, skip: str) -> tuple[str, str]:
        """``(normed, source + skip)``."""
        graph.nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization",
                [source, skip, graph.constant(name, weight(name))],
                [f"{name}.normed", "", "", f"{name}.state"],
                name=f"{name}.normed",
                domain=CONTRIB,
                epsilon=eps,
            )
        )
        return f"{name}.normed", f"{name}.state"

    branch = ""
    for layer in range(config.layers):
        prefix = f"layers.{layer}"
        if branch:
            normed, state = norm(f"{prefix}.attn_norm.weight", state, branch)
        else:
            gamma = graph.constant("layers.0.attn_norm.weight", weight("layers.0.attn_norm.weight"))
            normed = graph.node("SimplifiedLayerNormalization", [state, gamma], "first", axis=-1, epsilon=eps)
        parts = [f"{prefix}.attn.{part}" for part in "qkv"]
        fused = np.concatenate([weight(f"{part}.weight") for part in parts])
        packed = graph.linear(f"{prefix}.qkv", normed, fused, joined([f"{part}.bias" for part in parts]))
        streams = [packed, "", ""]
        if config.qk_norm:
            streams = [f"{part}.split" for part in parts]
            graph.nodes.append(helper.make_node("Split", [packed, qkv_split], streams, axis=-1))
            for index, heads in ((0, config.heads), (1, config.kv_heads)):
                name = f"{parts[index]}_norm"
                streams[index] = graph.head_norm(name, streams[index], weight(f"{name}.weight"), heads, eps)
        shape = [1, config.kv_heads, "capacity", config.head_dim]
        pair = [f"key.{layer}", f"value.{layer}"]
        caches += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in pair]
        presents += [helper.make_tensor_value_info(f"{name}.out", TensorProto.FLOAT, shape) for name in pair]
        attention = f"{prefix}.attention"
        graph.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [*streams, *pair, "last", "length", cosines, sines],
                [attention, *(f"{name}.out" for name in pair)],
                name=attention,
                domain=CONTRIB,
                num_heads=config.heads,
                kv_num_heads=config.kv_heads,
                do_rotary=1,
                rotary_interleaved=0,
                scale=config.head_dim**-0.5,
                local_window_size=config.sliding_window or -1,
            )
        )
        output = weight(f"{prefix}.attn.o.weight")
        branch = graph.linear(f"{prefix}.o", attention, output, joined([f"{prefix}.attn.o.bias"]))
        normed, state = norm(f"{prefix}.mlp_norm.weight", state, branch)
        fused = np.concatenate([weight(f"{prefix}.mlp.{part}.weight") for part in ("gate", "up")])
        both = graph.linear(f"{prefix}.gate_up", normed, fused, None)
        gate, up = f"{prefix}.gate", f"{prefix}.up"
        graph.nodes.append(helper.make_node("Split", [both, gate_split], [gate, up], axis=-1))
        # QuickGelu with alpha 1 is SiLU in one node.
        active = graph.node("QuickGelu", [gate], f"{prefix}.active", CONTRIB, alpha=1.0)
        product = graph.node("Mul", [active, up], f"{prefix}.product")
        branch = graph.linear(f"{prefix}.down", product, weight(f"{prefix}.mlp.down.weight"), None)
    normed, _ = norm("norm.weight", state, branch)
    axis = 1
    chosen = graph.node("Gather", [normed, "wanted"], "chosen", axis=axis)
    head = table if tied else weight("head.weight")
    logits = graph.linear("head", chosen, head, None)
    graph.nodes[-1].output[0] = "logits"
    del logits

    inputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, "rows"]),
        helper.make_tensor_value_info("wanted", TensorProto.INT64, ["wanted"]),
        helper.make_tensor_value_info("last", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("length", TensorProto.INT32, []),
        *caches,
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "wanted", head.shape[0]]), *presents]
    body = helper.make_graph(graph.nodes, "decoder", inputs, outputs, list(graph.constants.values()))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=9, producer_name="foredraft")
