"""The other programs, each behind the same function: tokens in, tokens and their instants out.

They run in the process of a peer (:mod:`.program`); what one needs is imported when it is asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foredraft_shared.errors import BackendMissing, ModelUnsupported
from foredraft_shared.models import Model, open_model

__all__ = ["ENGINES", "Engine", "Order", "Set", "drafted_model"]


@dataclass(frozen=True, slots=True)
class Set:
    """What a peer is started with."""

    engine: str
    """Of :data:`ENGINES`."""
    target: str
    draft: str
    """The draft of the run by its spec; empty for the target alone."""
    dtype: str
    longest: int
    """Tokens of the longest text, its prompt included."""
    offline: bool


@dataclass(frozen=True, slots=True)
class Order:
    """A text to write."""

    prompt: list[int]
    max_tokens: int
    stops: list[int]
    """Tokens that end it; empty to write on."""
    temperature: float
    top_p: float
    seed: int


Told = Callable[[Sequence[int]], None]
"""Called with tokens as soon as they are sure: one, or all that became so at once."""
Engine = Callable[[Order, Told], None]


def drafted_model(draft: str, target: str) -> tuple[str, int | None, bool]:
    """What of a draft's spec another program can run: ``(model, layers, in 8 bits)``; ``None`` layers: all.

    Raises:
        ModelUnsupported: it is a kind that only foredraft runs; ends a sentence.
    """
    kind, _, argument = draft.partition(":")
    if kind == "first":
        layers, _, model = argument.partition(":")
        return model or target, int(layers), True
    if kind in ("compiled", "model", "onnx", "onnx-int8"):
        return argument or target, None, True
    if kind in ("torch", "llama", "onnx-float32"):
        return argument or target, None, False
    if kind in ("draft", "ngram", "onnx-int4"):
        raise ModelUnsupported(f"only foredraft runs a draft such as {draft}; name a model with --draft")
    return draft, None, True


def transformers_engine(given: Set) -> Engine:
    """``generate`` of transformers, with a draft model as its assistant (Gante, "Assisted generation", 2023).

    The assistant has the settings with which transformers comes. One that foredraft runs in 8 bits has its linear layers in
    8 bits by torch.

    Raises:
        BackendMissing, ModelUnsupported: it cannot run this; ends a sentence.
    """
    import torch

    from ..in_transformers import in_transformers

    dtype = getattr(torch, given.dtype, None)
    if dtype is None:
        raise ModelUnsupported(f"transformers does not compute in {given.dtype}; take --dtype bfloat16")
    torch.set_num_threads(1)
    theirs = in_transformers(open_model(given.target, offline=given.offline), dtype)
    more: dict[str, Any] = {}
    if given.draft:
        reference, layers, eight_bits = drafted_model(given.draft, given.target)
        model = open_model(reference, offline=given.offline)
        if eight_bits:
            assistant = torch.ao.quantization.quantize_dynamic(in_transformers(model, layers=layers), {torch.nn.Linear})
        else:
            assistant = in_transformers(model, dtype, layers=layers)
        more["assistant_model"] = assistant
    for model in (theirs, *more.values()):
        model.generation_config.eos_token_id = None  # else an order without stops ends at one of its family

    def write(order: Order, told: Told) -> None:
        torch.manual_seed(order.seed)
        tokens = torch.tensor([order.prompt])
        drawn: dict[str, Any] = {"do_sample": False}
        if order.temperature > 0:
            drawn = {"do_sample": True, "temperature": order.temperature, "top_p": order.top_p, "top_k": 0}
        with torch.inference_mode():
            theirs.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=order.max_tokens,
                eos_token_id=order.stops or None, pad_token_id=0, streamer=_Streamer(told), **drawn, **more,
            )  # fmt: skip

    return write


class _Streamer:
    """What ``generate`` tells its tokens: the prompt first."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._prompt = True

    def put(self, value: Any) -> None:
        if not self._prompt:
            self._told(value.flatten().tolist())
        self._prompt = False

    def end(self) -> None:
        pass


def llama_engine(given: Set) -> Engine:
    """llama.cpp by llama-cpp-python, with the weights as they stand in the GGUF file; a draft model is a second one of it,
    asked for ten tokens at a time, as many as the draft that comes with llama-cpp-python gives.

    Raises:
        BackendMissing, ModelUnsupported: it cannot run this; ends a sentence.
    """
    try:
        import llama_cpp
        from llama_cpp.llama_speculative import LlamaDraftModel
    except ImportError:
        raise BackendMissing("llama-cpp-python is not installed; pip install 'foredraft[llama]'") from None
    import numpy as np

    room = given.longest + _DRAFT_TOKENS

    def opened(path: Path, **more: Any) -> Any:
        return llama_cpp.Llama(model_path=str(path), n_ctx=room, n_threads=1, n_threads_batch=1, verbose=False, **more)

    target = _gguf(open_model(given.target, offline=given.offline))
    small: Any = None
    more: dict[str, Any] = {}
    if given.draft:
        reference, layers, _ = drafted_model(given.draft, given.target)
        draft = _gguf(open_model(reference, offline=given.offline))
        if layers is not None or draft == target:
            raise ModelUnsupported("the draft is made of the target's own file; name a smaller GGUF file with --draft")
        small = opened(draft)

        class Draft(LlamaDraftModel):  # type: ignore[misc, unused-ignore]
            def __call__(self, input_ids: Any, /, **ignored: Any) -> Any:
                wanted = min(_DRAFT_TOKENS, room - len(input_ids))
                found = list(itertools.islice(small.generate(input_ids.tolist(), temp=0.0), wanted))
                return np.array(found, dtype=np.intc)

        more = {"draft_model": Draft(), "logits_all": True}
    large = opened(target, **more)

    def write(order: Order, told: Told) -> None:
        for model in filter(None, (large, small)):
            model.reset()  # else a prompt that it has seen before costs nothing
        large.set_seed(order.seed % 2**32)
        written = large.generate(order.prompt, temp=order.temperature, top_k=0, top_p=order.top_p, min_p=0.0)
        for token in itertools.islice(written, order.max_tokens):
            told([int(token)])
            if token in order.stops:
                return

    return write


_DRAFT_TOKENS = 10


def _gguf(model: Model) -> Path:
    if model.path.suffix != ".gguf":
        raise ModelUnsupported(f"llama.cpp reads GGUF files, and {model.path.name} is none")
    return model.path


ENGINES: dict[str, Callable[[Set], Engine]] = {"transformers": transformers_engine, "llama.cpp": llama_engine}
