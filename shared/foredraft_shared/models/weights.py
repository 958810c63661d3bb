"""The weights of a decoder under one set of names, whatever file they lie in.

Names (``i`` counts layers from 0; matrices are ``[out, in]``)::

    embedding.weight                      [vocabulary, hidden]
    layers.{i}.attn_norm.weight           [hidden]
    layers.{i}.attn.{q,k,v}.weight        [heads or kv_heads * head_dim, hidden], and .bias where there is one
    layers.{i}.attn.{q,k}_norm.weight     [head_dim]                              Qwen3
    layers.{i}.attn.o.weight              [hidden, heads * head_dim], and .bias where there is one
    layers.{i}.mlp_norm.weight            [hidden]
    layers.{i}.mlp.{gate,up}.weight       [feed_forward, hidden]
    layers.{i}.mlp.down.weight            [hidden, feed_forward]
    norm.weight                           [hidden]
    head.weight                           [vocabulary, hidden]                    absent where it is the embedding

Rotary embeddings rotate the two *halves* of a head against each other (as Hugging Face does). llama.cpp rotates
neighbours for the Llama architecture and permutes the rows of q and k for it when it writes a GGUF; that permutation
is undone here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..errors import ModelDamaged
from .config import ModelConfig
from .safetensors_file import SafetensorsFiles

if TYPE_CHECKING:
    from .gguf_file import GgufFile

__all__ = ["FloatArray", "Weights", "gguf_tensor"]

FloatArray: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_LAYER_PARTS = {  # ours: (Hugging Face's, GGUF's)
    "attn_norm": ("input_layernorm", "attn_norm"),
    "attn.q": ("self_attn.q_proj", "attn_q"),
    "attn.k": ("self_attn.k_proj", "attn_k"),
    "attn.v": ("self_attn.v_proj", "attn_v"),
    "attn.o": ("self_attn.o_proj", "attn_output"),
    "attn.q_norm": ("self_attn.q_norm", "attn_q_norm"),
    "attn.k_norm": ("self_attn.k_norm", "attn_k_norm"),
    "mlp_norm": ("post_attention_layernorm", "ffn_norm"),
    "mlp.gate": ("mlp.gate_proj", "ffn_gate"),
    "mlp.up": ("mlp.up_proj", "ffn_up"),
    "mlp.down": ("mlp.down_proj", "ffn_down"),
}
_TOP_PARTS = {
    "embedding": ("model.embed_tokens", "token_embd"),
    "norm": ("model.norm", "output_norm"),
    "head": ("lm_head", "output"),
}
_FROM_HUGGING_FACE = {theirs: ours for ours, (theirs, _) in (_LAYER_PARTS | _TOP_PARTS).items()}
_FROM_GGUF = {theirs: ours for ours, (_, theirs) in (_LAYER_PARTS | _TOP_PARTS).items()}
_HUGGING_FACE_NAME = re.compile(r"(?:model\.layers\.(?P<layer>\d+)\.)?(?P<part>.+)\.(?P<kind>weight|bias)")
_GGUF_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<part>.+)\.(?P<kind>weight|bias)")


@dataclass(frozen=True, slots=True)
class _Entry:
    shape: tuple[int, ...]
    kind: str
    bytes: int
    read: Callable[[], FloatArray]


class Weights(Mapping[str, FloatArray]):
    """A read-only mapping from the names above to float32 arrays, read from the file at every look-up.

    Nothing is kept: hold on to an array that is needed twice. Every array is the caller's own and writable.

    Raises:
        ModelDamaged: when made: a tensor is missing or of a wrong shape; on look-up: its bytes cannot be read.
    """

    def __init__(self, entries: Mapping[str, _Entry], config: ModelConfig, path: Path) -> None:
        # Layers beyond the configured ones are left out, as transformers does: a way to cut a model short.
        inside = {name: entry for name, entry in entries.items() if _layer(name) < config.layers}
        self._entries = dict(sorted(inside.items()))
        self._path = path
        _check(self._entries, config, path)

    @classmethod
    def from_safetensors(cls, folder: Path, config: ModelConfig) -> Weights:
        """From ``model.safetensors`` in ``folder``, or from the files its ``model.safetensors.index.json`` names."""
        files = SafetensorsFiles(folder)
        entries = {}
        for theirs in files.names:
            ours = _rename(theirs, _HUGGING_FACE_NAME, _FROM_HUGGING_FACE)
            if ours is None or (ours == "head.weight" and config.tied):
                continue
            tensor = files[theirs]
            entries[ours] = _Entry(tensor.shape, tensor.kind, tensor.bytes, tensor.read)
        return cls(entries, config, folder)

    @classmethod
    def from_gguf(cls, file: GgufFile, config: ModelConfig) -> Weights:
        """From an opened GGUF file, dequantised tensor by tensor."""
        entries = {}
        for theirs in file.tensors:
            ours = _rename(theirs, _GGUF_NAME, _FROM_GGUF)
            if ours is None:
                continue
            heads = 0
            if file.architecture == "llama" and ".attn.q." in ours:
                heads = config.heads
            elif file.architecture == "llama" and ".attn.k." in ours:
                heads = config.kv_heads
            read = _gguf_reader(file, theirs, heads)
            entries[ours] = _Entry(file.shape(theirs), file.kind(theirs), file.bytes(theirs), read)
        return cls(entries, config, file.path)

    def __getitem__(self, name: str) -> FloatArray:
        return self._entries[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:  # Mapping's own would read the tensor
        return name in self._entries

    def __repr__(self) -> str:
        millions = self.parameters / 1e6
        return f"<Weights {self._path}: {len(self)} tensors, {millions:.1f} M parameters, {self.quantisation}>"

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._entries[name].shape

    def kind(self, name: str) -> str:
        """Element type of a tensor in its file: ``F32``, ``BF16``, ``Q4_1``…"""
        return self._entries[name].kind

    @property
    def parameters(self) -> int:
        """How many numbers the model has; a tied head counts once."""
        return sum(prod(entry.shape) for entry in self._entries.values())

    @property
    def bytes(self) -> int:
        """What the tensors take in their file, in bytes."""
        return sum(entry.bytes for entry in self._entries.values())

    @property
    def quantisation(self) -> str:
        """The element type that holds most of the layers' parameters, as the file names it: ``BF16``, ``Q4_1``…"""
        sizes: dict[str, int] = {}
        for name, entry in self._entries.items():
            if name.startswith("layers."):
                sizes[entry.kind] = sizes.get(entry.kind, 0) + prod(entry.shape)
        return max(sizes, key=lambda kind: sizes[kind])


def _layer(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("layers.") else -1


def _rename(theirs: str, pattern: re.Pattern[str], parts: Mapping[str, str]) -> str | None:
    """Our name of a tensor; ``None`` for one that no decoder of ours uses."""
    match = pattern.fullmatch(theirs)
    part = parts.get(match["part"]) if match else None
    if match is None or part is None or (match["layer"] is None) != (part in _TOP_PARTS):
        return None
    return f"layers.{match['layer']}.{part}.{match['kind']}" if match["layer"] else f"{part}.{match['kind']}"


def _gguf_reader(file: GgufFile, name: str, heads: int) -> Callable[[], FloatArray]:
    def read() -> FloatArray:
        values = file.read(name)
        return _unpermute(values, heads) if heads else values

    return read


def _unpermute(values: FloatArray, heads: int) -> FloatArray:
    """Undo llama.cpp's reordering of the rows of q or k (a weight or a bias) within each head.

    Its ``convert_hf_to_gguf.py`` turns the rows of a head from (half, pair) into (pair, half).
    """
    pairs = values.shape[0] // heads // 2
    split = values.reshape(heads, pairs, 2, *values.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(values.shape)


def gguf_tensor(name: str, values: FloatArray, config: ModelConfig, architecture: str) -> tuple[str, FloatArray]:
    """A tensor of ours as a GGUF file of ``architecture`` holds it: its name there, and its rows in llama.cpp's order."""
    layer, part, kind = "", *name.rsplit(".", 1)
    if name.startswith("layers."):
        _, number, part = part.split(".", 2)
        layer = f"blk.{number}."
    heads = {"attn.q": config.heads, "attn.k": config.kv_heads}.get(part, 0) if architecture == "llama" else 0
    if heads:
        split = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        values = np.ascontiguousarray(split.swapaxes(1, 2)).reshape(values.shape)
    return f"{layer}{(_LAYER_PARTS | _TOP_PARTS)[part][1]}.{kind}", values


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors a decoder of this shape must have; a bias of ``o`` it may have."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.weight": (config.vocabulary, config.hidden),
        "norm.weight": (config.hidden,),
    }
    if not config.tied:
        shapes["head.weight"] = (config.vocabulary, config.hidden)
    for layer in range(config.layers):
        prefix = f"layers.{layer}."
        shapes |= {
            prefix + "attn_norm.weight": (config.hidden,),
            prefix + "attn.q.weight": (queries, config.hidden),
            prefix + "attn.k.weight": (keys, config.hidden),
            prefix + "attn.v.weight": (keys, config.hidden),
            prefix + "attn.o.weight": (config.hidden, queries),
            prefix + "mlp_norm.weight": (config.hidden,),
            prefix + "mlp.gate.weight": (config.feed_forward, config.hidden),
            prefix + "mlp.up.weight": (config.feed_forward, config.hidden),
            prefix + "mlp.down.weight": (config.hidden, config.feed_forward),
        }
        if config.attention_bias:
            shapes |= {prefix + "attn.q.bias": (queries,)}
            shapes |= {prefix + f"attn.{part}.bias": (keys,) for part in "kv"}
        if config.qk_norm:
            shapes |= {prefix + f"attn.{part}_norm.weight": (config.head_dim,) for part in "qk"}
    return shapes


def _check(entries: Mapping[str, _Entry], config: ModelConfig, path: Path) -> None:
    expected = expected_shapes(config)
    missing = [name for name in expected if name not in entries]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelDamaged(f"{path} lacks the tensor {missing[0]}{more}; fetch the model again, whole.")
    for name, entry in entries.items():
        shape = expected.get(name)
        if shape is None and name.endswith(".bias"):
            shape = expected.get(name.removesuffix("bias") + "weight", ())[:1]
        if shape is None:
            raise ModelDamaged(f"{path} has a tensor {name} that its configuration does not; fetch the model again.")
        if entry.shape != shape:
            raise ModelDamaged(
                f"{path}: {name} has shape {list(entry.shape)}, its configuration says {list(shape)}; "
                "fetch the model again."
            )
