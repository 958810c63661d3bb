"""A trained draft as a GGUF file for llama.cpp.

The file is the target's own with fewer layers: its metadata and tokenizer as they are, the embedding and the frozen layers
from the target, the trained ones from the artifact, matrices in Q8_0. llama.cpp knows no head for a part of the vocabulary,
so tokens that the draft cannot say get a row each, the mean of all rows that it can: the score of a mean is never above the
highest of what it is the mean of, so none of them is ever the first choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendMissing, ModelDamaged, UsageError
from .artifacts import Artifact
from .gguf_file import GgufFile
from .opened import Model
from .weights import gguf_tensor

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = ["export_gguf"]


def export_gguf(model: Model, artifact: Artifact, path: Path) -> Path:
    """Write the draft ``artifact``, trained for ``model``, to ``path``, all of it or nothing.

    Raises:
        UsageError: the target is no GGUF file, so that there is no tokenizer in llama.cpp's form to take over.
        VocabularyMismatch: the draft was trained for another model.
        ModelDamaged: the artifact does not say how many layers or which tokens it has.
        BackendMissing: the ``gguf`` package is not installed.
    """
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise BackendMissing("Writing GGUF files needs the package gguf: pip install 'foredraft[models]'.") from None
    artifact.check(model)
    layers = artifact.facts.get("layers")
    if not isinstance(layers, int) or "head.tokens" not in artifact.tensors:
        raise ModelDamaged(f"{artifact.path} does not say how many layers or which tokens it has; train it again.")
    if not model.path.is_file():
        raise UsageError(
            f"{model.path} is a folder, and the draft takes over its target's tokenizer in llama.cpp's form; convert the "
            "target with llama.cpp's convert_hf_to_gguf.py, and train the draft for that file."
        )
    source = GgufFile(model.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    writer = GGUFWriter(partial, source.architecture)
    try:
        _copy_metadata(writer, source, layers, artifact)
        for name, values in _tensors(model, artifact, layers):
            _add(writer, *gguf_tensor(name, values, model.config, source.architecture))
        if "rope_freqs.weight" in source.tensors:  # of Llama 3's stretched positions
            _add(writer, "rope_freqs.weight", source.read("rope_freqs.weight"))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    partial.replace(path)
    return path


def _copy_metadata(writer: GGUFWriter, source: GgufFile, layers: int, artifact: Artifact) -> None:
    ours: dict[str, Any] = {
        f"{source.architecture}.block_count": layers,
        "general.name": f"draft of {layers} layers for {artifact.target}",
    }
    skipped = ("general.architecture", "general.file_type", "general.quantization_version", "general.alignment")
    for key in source.keys:
        value = ours.get(key, source.get(key))
        if key not in skipped and not key.startswith("GGUF."):
            _write_value(writer, key, value)
    if "general.name" not in source:
        _write_value(writer, "general.name", ours["general.name"])


def _write_value(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        add = writer.add_uint32 if 0 <= value < 2**32 else writer.add_int64
        add(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value:  # an empty array says nothing
        writer.add_array(key, value)


def _tensors(model: Model, artifact: Artifact, layers: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Everything the draft consists of, by canonical name."""
    trained = artifact.tensors
    yield "embedding.weight", model.weights["embedding.weight"]
    inside = {name for name in model.weights if name.startswith("layers.") and int(name.split(".")[1]) < layers}
    for name in sorted(inside | {name for name in trained if name.startswith("layers.")}):
        yield name, np.asarray(trained[name] if name in trained else model.weights[name], np.float32)
    yield "norm.weight", np.asarray(trained["norm.weight"], np.float32)
    known = np.asarray(trained["head.weight"], np.float32)
    head = np.repeat(known.mean(0, keepdims=True), model.config.vocabulary, axis=0)
    head[trained["head.tokens"]] = known
    yield "head.weight", head


def _add(writer: GGUFWriter, name: str, values: NDArray[np.float32]) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    values = np.ascontiguousarray(values, np.float32)
    if values.ndim == 1 or values.shape[1] % 32:  # Q8_0 has blocks of 32
        writer.add_tensor(name, values)
    else:
        kind = GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
