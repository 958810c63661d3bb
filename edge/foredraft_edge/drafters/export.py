"""From a checkpoint to an ONNX file for :class:`~foredraft_edge.drafters.onnx.OnnxDrafter`, made once and kept."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foredraft_shared.errors import BackendMissing, UsageError
from foredraft_shared.models import ModelConfig

from .kept import DraftWeights, head_tokens, kept
from .onnx import GRAPH_VERSION, METADATA

__all__ = ["PRECISIONS", "ExportOptions", "export_onnx", "exported"]

PRECISIONS = ("float32", "int8", "int4")
_EXTERNAL_BYTES = 1_500_000_000
"""Protocol buffers end at 2 GB: beyond this the weights go into a file beside the graph."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What of a model to write, and how.

    Raises:
        UsageError: a value is outside its range.
    """

    precision: str = "int8"
    """Of the matrices: ``float32``, ``int8`` or ``int4``."""
    context: int = 8192
    """Longest text in tokens; the model's own context bounds it."""

    def __post_init__(self) -> None:
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
        weights: see :class:`~foredraft_edge.drafters.kept.DraftWeights`.
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
    model = build_graph(config, weights, precision=options.precision, context=context)
    facts: dict[str, Any] = {
        "version": GRAPH_VERSION,
        "fingerprint": fingerprint,
        "family": config.family,
        "layers": config.layers,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocabulary": config.vocabulary,
        "context": context,
        "precision": options.precision,
    }
    facts["head"] = model.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    tokens = head_tokens(config, weights, facts["head"])
    if tokens is not None:
        facts["head_tokens"] = tokens.tolist()
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


def exported(draft: DraftWeights, options: ExportOptions | None = None, *, folder: Path | None = None) -> Path:
    """The ONNX file of ``draft``; see :func:`~foredraft_edge.drafters.kept.kept`."""
    options = options or ExportOptions()

    def make(path: Path) -> None:
        export_onnx(draft.config, draft.weights, path, options, fingerprint=draft.fingerprint)

    form = f"{options.precision} onnx {GRAPH_VERSION} {options.context}"
    return kept(draft, form, ".onnx", make, folder=folder)
