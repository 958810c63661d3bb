"""From a spec to a drafter: ``ngram``, ``first:6``, ``onnx:MODEL``…"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeAlias

from foredraft_shared.errors import BackendMissing, ModelNotFound, UsageError, VocabularyMismatch
from foredraft_shared.models import Model, Tokenizer, open_model

from .base import Drafter
from .kept import DraftWeights, first_layers, trained
from .text import CachedText

__all__ = ["GROUP", "DrafterFactory", "Wanted", "check_vocabulary", "in_kernels", "load_drafter"]

GROUP = "foredraft.drafters"
"""Entry point group: a name → a :data:`DrafterFactory`; the name is what stands before the colon of a spec."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a factory is asked for."""

    argument: str
    """What stands after the colon of the spec; may be empty."""
    tokenizer: Tokenizer | None
    """The target's, where it is known already."""
    target: str | Path | None
    """The target model, where the device can read it."""
    offline: bool
    threads: int

    def model(self) -> Model:
        """The model that :attr:`argument` names, or the target when it is empty.

        Raises:
            UsageError: neither is given.
            ModelNotFound, ModelDamaged, ModelUnsupported: see :func:`~foredraft_shared.models.open_model`.
        """
        reference = self.argument or self.target
        if not reference:
            raise UsageError("this draft needs a model; write it after the colon, such as onnx:smollm2-135m.")
        return open_model(reference, offline=self.offline)


Loaded: TypeAlias = "tuple[Drafter, Tokenizer | None]"
DrafterFactory: TypeAlias = Callable[[Wanted], Loaded]


def load_drafter(
    spec: str | Path,
    tokenizer: Tokenizer | None = None,
    *,
    target: str | Path | None = None,
    offline: bool = False,
    threads: int = 1,
) -> Loaded:
    """Make a drafter from a spec (see :mod:`foredraft_edge.drafters`).

    Args:
        spec: ``auto`` for :func:`default_draft`.
        tokenizer: the target's; the draft's is checked against it.
        target: the target model, for ``first:6``.
        offline: download nothing.
        threads: cores a step may use.

    Returns:
        The drafter, and its model's tokenizer (``tokenizer`` itself for a draft without a model).

    Raises:
        UsageError: the spec cannot be understood.
        VocabularyMismatch: the draft speaks other token ids than ``tokenizer``.
        BackendMissing: the package of a backend is not installed.
        ModelNotFound, ModelDamaged, ModelUnsupported: the model cannot be used.
    """
    if spec == "auto":
        spec = default_draft(target, offline=offline)
    kind, argument = _split(spec)
    drafter, own = _factory(kind)(Wanted(argument, tokenizer, target, offline, threads))
    if tokenizer is not None:
        try:
            check_vocabulary(drafter, tokenizer.fingerprint, str(spec))
        except VocabularyMismatch:
            drafter.close()
            raise
    return drafter, own or tokenizer


def default_draft(target: str | Path | None, *, offline: bool = False) -> str:
    """The spec of what to draft with when nobody says: the draft that was trained for the target and comes with
    foredraft; else, for a target of the catalogue, that model itself, since those are small; else n-grams, which
    fit any target and need no model.

    Only a target that is known by name or lies on this device is looked at: a trained draft shares its embedding.
    """
    from foredraft_shared.models.artifacts import shipped
    from foredraft_shared.models.catalogue import CATALOGUE

    if target and (str(target) in CATALOGUE or Path(target).exists()):
        model = open_model(target, offline=offline)
        if shipped(model, "draft") is not None:
            return f"draft:{target}"
    return str(target) if str(target) in CATALOGUE else "ngram"


def check_vocabulary(drafter: Drafter, fingerprint: str, name: str = "the draft") -> None:
    """Refuse a drafter whose token ids mean something else than the target's.

    Raises:
        VocabularyMismatch: the fingerprints differ. An empty one fits any.
    """
    if drafter.vocabulary and fingerprint and drafter.vocabulary != fingerprint:
        raise VocabularyMismatch(
            f"{name} and the target have different tokenizers ({drafter.vocabulary[:8]} and {fingerprint[:8]}); "
            "take a draft of the target's own family, or ngram."
        )


def _split(spec: str | Path) -> tuple[str, str]:
    """``(kind, argument)``; what is no kind is a model."""
    text = str(spec)
    if not text:
        raise UsageError("the draft is empty; name a model, or ngram.")
    if isinstance(spec, Path):
        return "model", text
    kind, _, argument = text.partition(":")
    known = kind in _BUILT_IN or any(entry.name == kind for entry in entry_points(group=GROUP))
    return (kind, argument) if known else ("model", text)


def _factory(kind: str) -> DrafterFactory:
    if kind in _BUILT_IN:
        return _BUILT_IN[kind]
    (entry,) = (entry for entry in entry_points(group=GROUP) if entry.name == kind)
    try:
        factory: DrafterFactory = entry.load()
    except ImportError as error:
        raise BackendMissing(f"the drafter {kind!r} ({entry.value}) cannot be imported: {error}.") from error
    return factory


# --- the built-in kinds ----------------------------------------------------------------------------------------------


def in_kernels(draft: DraftWeights, threads: int, instructions: str | None = None) -> CachedText:
    """``draft`` in the compiled kernels.

    Args:
        instructions: the set to compile for, in place of the best.

    Raises:
        BackendMissing: there are none for this machine; says why.
    """
    from foredraft_shared.kernels.library import library, missing

    from .compiled import CompiledDrafter, packed

    kernels, lack = library(instructions), missing(instructions)
    if kernels is None:
        assert lack is not None
        cure = f"{lack.cure}, or " if lack.cure else ""
        raise BackendMissing(f"There are no compiled kernels here: {lack.reason}; {cure}draft with onnx:MODEL.")
    return CompiledDrafter(kernels, packed(draft), threads=threads)


def _best(draft: DraftWeights, threads: int) -> Drafter:
    """In the compiled kernels where they can be had, else by onnxruntime with weights of 8 bits."""
    from foredraft_shared.kernels.library import library

    if library() is not None:
        return in_kernels(draft, threads)
    from .export import exported
    from .onnx import OnnxDrafter

    return OnnxDrafter(exported(draft), threads=threads)


def _model(wanted: Wanted) -> Loaded:
    if wanted.argument.endswith(".onnx"):
        return _onnx(wanted)
    model = wanted.model()
    return _best(first_layers(model), wanted.threads), model.tokenizer


def _compiled(wanted: Wanted) -> Loaded:
    model = wanted.model()
    return in_kernels(first_layers(model), wanted.threads), model.tokenizer


def _onnx(wanted: Wanted, precision: str = "int8") -> Loaded:
    from .export import ExportOptions, exported
    from .onnx import OnnxDrafter

    if wanted.argument.endswith(".onnx"):
        if not Path(wanted.argument).is_file():
            raise ModelNotFound(f"{wanted.argument}: no such file; check the path.")
        return OnnxDrafter(wanted.argument, threads=wanted.threads), None
    model = wanted.model()
    path = exported(first_layers(model), ExportOptions(precision=precision))
    return OnnxDrafter(path, threads=wanted.threads), model.tokenizer


def _trained(wanted: Wanted) -> Loaded:
    """A shallow draft trained for a target: the one that comes with foredraft, or ``draft:FILE.safetensors``."""
    from foredraft_shared.models.artifacts import load_artifact, shipped

    file = Path(wanted.argument) if wanted.argument.endswith(".safetensors") else None
    reference = wanted.target if file else wanted.argument or wanted.target
    if not reference:
        raise UsageError("a trained draft needs its target's embedding; write the target after the colon: draft:MODEL.")
    model = open_model(reference, offline=wanted.offline)
    path = file or shipped(model, "draft")
    if path is None:
        raise UsageError(
            f"foredraft ships no trained draft for {reference}; train one with `foredraft train draft`, "
            f"or use its first layers: first:6:{reference}."
        )
    artifact = load_artifact(path, "draft")
    artifact.check(model)
    return _best(trained(model, artifact), wanted.threads), model.tokenizer


def _first(wanted: Wanted) -> Loaded:
    count, _, reference = wanted.argument.partition(":")
    if not (count.isdecimal() and int(count) > 0):
        raise UsageError(f"first:{wanted.argument} makes no sense; write the number of layers, such as first:6.")
    if not (reference or wanted.target):
        raise UsageError(
            f"first:{count} of which model? Write first:{count}:MODEL, such as first:{count}:smollm2-135m."
        )
    model = open_model(reference or wanted.target or "", offline=wanted.offline)
    return _best(first_layers(model, int(count)), wanted.threads), model.tokenizer


def _ngram(wanted: Wanted) -> Loaded:
    from .ngram import NgramDrafter

    if wanted.argument and not wanted.argument.isdecimal():
        raise UsageError(f"ngram:{wanted.argument} makes no sense; write ngram, or ngram:4 for the longest match.")
    longest = int(wanted.argument or 4)
    fingerprint = wanted.tokenizer.fingerprint if wanted.tokenizer else ""
    return NgramDrafter(fingerprint, longest=longest, shortest=min(2, longest)), wanted.tokenizer


def _torch(wanted: Wanted) -> Loaded:
    from .torch import TorchDrafter

    model = wanted.model()
    fingerprint = model.tokenizer.fingerprint
    drafter = TorchDrafter(model.config, model.weights, fingerprint=fingerprint, threads=wanted.threads)
    return drafter, model.tokenizer


def _llama(wanted: Wanted) -> Loaded:
    from .llama import LlamaDrafter

    model = wanted.model()
    fingerprint = model.tokenizer.fingerprint
    return LlamaDrafter(model.path, fingerprint=fingerprint, threads=wanted.threads), model.tokenizer


_BUILT_IN: dict[str, DrafterFactory] = {
    "compiled": _compiled,
    "draft": _trained,
    "first": _first,
    "llama": _llama,
    "model": _model,
    "ngram": _ngram,
    "onnx": _onnx,
    "onnx-float32": lambda wanted: _onnx(wanted, "float32"),
    "onnx-int4": lambda wanted: _onnx(wanted, "int4"),
    "onnx-int8": _onnx,
    "torch": _torch,
}
