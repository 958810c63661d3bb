"""From a checkpoint to an ONNX file for :class:`~foredraft_edge.drafters.onnx.OnnxDrafter`, made once and kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.errors import BackendMissing, ModelDamaged, UsageError
from foredraft_shared.models import Model, ModelConfig
from foredraft_shared.models.artifacts import Artifact
from foredraft_shared.models.cache import cache_directory

from .onnx import GRAPH_VERSION, METADATA

__all__ = ["PRECISIONS", "ExportOptions", "export_onnx", "exported", "exported_draft"]

PRECISIONS = ("float32", "int8", "int4")
_EXTERNAL_BYTES = 1_500_000_000
"""Protocol buffers end at 2 GB: beyond this the weights go into a file beside the graph."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What of a model to write, and how.

    Raises:
        UsageError: a value is outside its range.
    """

    layers: int | None = None
    """The first so many layers, under the model's own final norm and head; ``None`` for all."""
    precision: str = "int8"
    """Of the matrices: ``float32``, ``int8`` or ``int4``."""
    context: int = 8192
    """Longest text in tokens; the model's own context bounds it."""

    def __post_init__(self) -> None:
        if self.layers is not None and self.layers < 1:
            raise UsageError(f"{self.layers} layers make no draft; ask for 1 or more.")
        if self.precision not in PRECISIONS:
            raise UsageError(f"Precision {self.precision!r} is not known; use {', '.join(PRECISIONS)}.")


def export_onnx(
    config: ModelConfig,
    weights: Mapping[str, NDArray[np.float32]],
    path: Path,
    options: ExportOptions | None = None,
    *,
    fingerprint: str = "",
) -> Path:
    """Write a decoder to ``path``, all of it or nothing.

    Args:
        weights: canonical names to arrays. With ``head.tokens`` ``[head]`` (whole numbers, ascending) the head has a
            row for each of these ids only, and the draft proposes no others.
        fingerprint: of the tokenizer the model speaks.

    Raises:
        ModelUnsupported, ModelDamaged: see :func:`~foredraft_edge.drafters.graph.build_graph`.
        BackendMissing: the ``onnx`` package is not installed.
    """
    try:
        import onnx

        from .graph import build_graph
    except ImportError:
        raise BackendMissing("Exporting a draft needs the onnx package: pip install 'foredraft[edge]'.") from None
    options = options or ExportOptions()
    context = min(options.context, config.context)
    model = build_graph(config, weights, layers=options.layers, precision=options.precision, context=context)
    facts: dict[str, Any] = {
        "version": GRAPH_VERSION,
        "fingerprint": fingerprint,
        "family": config.family,
        "layers": options.layers or config.layers,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocabulary": config.vocabulary,
        "head": config.vocabulary,
        "context": context,
        "precision": options.precision,
    }
    if "head.tokens" in weights:
        tokens = np.asarray(weights["head.tokens"]).astype(np.int64)
        rows = model.graph.output[0].type.tensor_type.shape.dim[2].dim_value
        if len(tokens) != rows or not (np.diff(tokens) > 0).all() or tokens[-1] >= config.vocabulary:
            raise ModelDamaged(
                "head.tokens must be ascending target ids, one for each row of the head; train it again."
            )
        facts |= {"head": rows, "head_tokens": tokens.tolist()}
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        made = Path(folder) / path.name
        if model.ByteSize() < _EXTERNAL_BYTES:
            onnx.save(model, str(made))
        else:
            beside = f"{path.name}.data"
            onnx.save(model, str(made), save_as_external_data=True, location=beside)
            os.replace(made.with_name(beside), path.with_name(beside))
        os.replace(made, path)
    return path


def exported(model: Model, options: ExportOptions | None = None, *, folder: Path | None = None) -> Path:
    """The ONNX file of ``model``; made at the first call, found in the cache after.

    Args:
        folder: of the cache; ``drafts`` in the models' cache by default.
    """
    options = options or ExportOptions()
    folder = folder or cache_directory() / "drafts"
    key = hashlib.sha256(f"{GRAPH_VERSION} {asdict(options)} {_digest(model.path)}".encode()).hexdigest()[:16]
    depth = f"first-{options.layers}-" if options.layers else ""
    path = folder / f"{model.path.stem}-{depth}{options.precision}-{key}.onnx"
    if not path.exists():
        export_onnx(model.config, model.weights, path, options, fingerprint=model.tokenizer.fingerprint)
    with contextlib.suppress(OSError):
        os.utime(path)  # so that a clean-up can tell what is in use
    return path


def exported_draft(model: Model, artifact: Artifact, *, folder: Path | None = None) -> Path:
    """The ONNX file of a draft trained for ``model``; made once, as by :func:`exported`.

    What the artifact does not bring is the target's own: the embedding always, and layers that were not trained.

    Raises:
        ModelDamaged: the artifact lacks a tensor, or a fact about its shape.
    """
    folder = folder or cache_directory() / "drafts"
    key = hashlib.sha256(f"{GRAPH_VERSION} draft {_digest(model.path)} {_digest(artifact.path)}".encode()).hexdigest()[
        :16
    ]
    path = folder / f"{model.path.stem}-{artifact.path.stem}-{key}.onnx"
    if not path.exists():
        layers = artifact.facts.get("layers")
        if not isinstance(layers, int) or "head.tokens" not in artifact.tensors:
            raise ModelDamaged(f"{artifact.path} does not say how many layers or which tokens it has; train it again.")
        weights = ChainMap[str, NDArray[np.float32]](dict(artifact.tensors), model.weights)  # type: ignore[arg-type]
        config = replace(model.config, layers=layers, tied=False)
        export_onnx(config, weights, path, fingerprint=model.tokenizer.fingerprint)
    with contextlib.suppress(OSError):
        os.utime(path)
    return path


def _digest(path: Path) -> str:
    """Hash of a model's files: the GGUF file, or whatever of a folder says what the model is."""
    files = [path] if path.is_file() else sorted([*path.glob("*.json"), *path.glob("*.safetensors")])
    whole = hashlib.blake2b(digest_size=16)
    for file in files:
        whole.update(file.name.encode() + b"\0" + str(file.stat().st_size).encode() + b"\0")
        with file.open("rb") as stream:
            while part := stream.read(1 << 22):
                whole.update(part)
    return whole.hexdigest()
