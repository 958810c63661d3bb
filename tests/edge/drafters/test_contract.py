"""What every drafter promises, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foredraft_edge.drafters.base import Drafter, follow
from foredraft_edge.drafters.compiled import CompiledDrafter, packed
from foredraft_edge.drafters.export import ExportOptions, export_onnx
from foredraft_edge.drafters.kept import first_layers
from foredraft_edge.drafters.ngram import NgramDrafter
from foredraft_edge.drafters.onnx import OnnxDrafter
from foredraft_edge.drafters.scripted import ScriptedDrafter
from foredraft_edge.drafters.text import CachedText
from foredraft_edge.drafters.torch import TorchDrafter
from foredraft_shared.errors import UsageError
from foredraft_shared.kernels.library import library
from foredraft_shared.messages import SamplingParams, TokenId
from foredraft_shared.models import Model, open_model

IDS = st.integers(0, 12)  # few, so that n-grams recur
PARAMS = st.sampled_from([SamplingParams(), SamplingParams(temperature=0.9, top_p=0.95, seed=7)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.lists(IDS, max_size=12)),
        st.tuples(st.just("extend"), st.lists(IDS, max_size=4)),
        st.tuples(st.just("draft"), st.integers(0, 4), st.integers(0, 4), PARAMS),
        st.tuples(st.just("rewind"), st.floats(0, 1)),
        st.tuples(st.just("review"), st.floats(0, 1), PARAMS),
        st.tuples(st.just("follow"), st.floats(0, 1), st.lists(IDS, max_size=4)),
    ),
    max_size=12,
)
LLAMA = pytest.param(
    "llama",
    marks=[]
    if find_spec("llama_cpp")
    else [pytest.mark.hardware, pytest.mark.skip("llama-cpp-python is not installed")],
)
COMPILED = pytest.param(
    "compiled", marks=pytest.mark.skipif(library() is None, reason="no compiled kernels on this machine")
)
MAKERS = ["scripted", "text", "ngram", "onnx", "torch", COMPILED, LLAMA]


@pytest.fixture(scope="module")
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Drafter]:
    folder: Path = tmp_path_factory.mktemp("drafters")
    model = open_model(checkpoints.write_hugging_face(folder / "model", "qwen2"))
    gguf = checkpoints.write_gguf(folder / "model", folder / "model.gguf")
    path = export_onnx(model.config, model.weights, folder / "model.onnx", ExportOptions(precision="float32"))

    def maker(kind: str) -> Drafter:
        if kind == "scripted":
            return ScriptedDrafter(lambda text: sum(text) % 11 if len(text) % 9 else None, error_rate=0.3, seed=5)
        if kind == "text":
            return ScriptedDrafter([position % 5 for position in range(30)], wrong_at=(3, 7))
        if kind == "ngram":
            return NgramDrafter(shortest=1)
        if kind == "llama":
            from foredraft_edge.drafters.llama import LlamaDrafter

            return LlamaDrafter(gguf, chunk=5)
        if kind == "torch":
            return TorchDrafter(model.config, model.weights)
        if kind == "compiled":
            return compiled(model, folder)
        return OnnxDrafter(path, chunk=5)

    return maker


def compiled(model: Model, folder: Path) -> CompiledDrafter:
    kernels = library()
    assert kernels is not None
    return CompiledDrafter(kernels, packed(first_layers(model), folder=folder), chunk=5)


def proposals(drafter: Drafter, limit: int, params: SamplingParams) -> list[TokenId]:
    return [proposal.token for proposal in drafter.draft(limit, params)]


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, params=PARAMS)
def test_how_a_text_came_about_does_not_matter(
    kind: str, make: Callable[[str], Drafter], steps: list[tuple[object, ...]], params: SamplingParams
) -> None:
    """Any sequence of calls, then ``draft``: the same as a fresh ``begin`` with the text, then ``draft``.

    The tiny models' logits are spread so widely that float32 rounding never decides.
    """
    drafter = make(kind)
    text: list[TokenId] = []
    for step in steps:
        match step:
            case ("begin", list(prompt)):
                drafter.begin(prompt)
                text = list(prompt)
            case ("extend", list(tokens)):
                drafter.extend(tokens)
                text += tokens
            case ("draft", int(limit), int(stop), SamplingParams() as its_params):
                text += [proposal.token for proposal in islice(drafter.draft(limit, its_params), stop)]
            case ("rewind", float(share)):
                drafter.rewind(int(share * len(text)))
                text = text[: int(share * len(text))]
            case ("review", float(share), SamplingParams() as its_params):
                drafter.review(int(share * len(text)), its_params)
            case ("follow", float(share), list(tokens)):
                text = text[: int(share * len(text))] + tokens
                follow(drafter, text)
        assert list(drafter.tokens) == text
    fresh = make(kind)
    fresh.begin(text)
    assert proposals(drafter, 3, params) == proposals(fresh, 3, params)
    assert list(drafter.tokens) == list(fresh.tokens)
    drafter.close()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=0.9, top_p=0.95, seed=7)])
def test_a_review_says_what_would_have_been_drafted(
    kind: str, params: SamplingParams, make: Callable[[str], Drafter]
) -> None:
    text = [position * position % 7 for position in range(30)]
    drafter, fresh = make(kind), make(kind)
    drafter.begin(text[:20])
    proposals(drafter, 2, params)  # something is cached that the text is not to have
    follow(drafter, text)
    for start in (0, 12, 29, 30):
        seen = drafter.review(start, params)
        assert list(drafter.tokens) == text
        for position, proposal in zip(range(start, 30), seen, strict=True):
            fresh.begin(text[:position])
            expected = next(iter(fresh.draft(1, params)), None)
            if expected is None or proposal is None:
                assert expected is proposal
                continue
            assert proposal.token == expected.token
            assert proposal.probability == pytest.approx(expected.probability, abs=1e-4)


@pytest.mark.parametrize("kind", MAKERS)
def test_bounds(kind: str, make: Callable[[str], Drafter]) -> None:
    drafter = make(kind)
    drafter.begin([1, 2, 3])
    for length in (-1, 4):
        with pytest.raises(UsageError, match="rewind"):
            drafter.rewind(length)
    assert list(drafter.tokens) == [1, 2, 3]
    assert proposals(drafter, 0, SamplingParams()) == []
    for proposal in drafter.draft(3, SamplingParams(temperature=1.0)):
        assert 0.0 <= proposal.probability <= 1.0
        assert isinstance(proposal.token, int)
    drafter.rewind(0)
    assert list(drafter.tokens) == []


@pytest.mark.parametrize("kind", ["onnx", "torch", COMPILED, LLAMA])
def test_a_full_context_ends_the_draft(kind: str, make: Callable[[str], Drafter]) -> None:
    drafter = make(kind)
    prompt: Sequence[TokenId] = [position % 397 for position in range(510)]
    drafter.begin(prompt)
    assert len(proposals(drafter, 5, SamplingParams())) == 2
    drafter.extend([1, 2, 3])
    assert proposals(drafter, 5, SamplingParams()) == []
    drafter.rewind(511)
    assert len(proposals(drafter, 5, SamplingParams())) == 1
    for token in (416, -1):
        with pytest.raises(UsageError, match=str(token)):
            drafter.extend([5, token])
    with pytest.raises(UsageError, match="416"):
        drafter.begin([5, 416])


@pytest.mark.parametrize("kind", ["onnx", "torch", COMPILED])
def test_a_cache_that_grows_keeps_what_it_holds(kind: str, tmp_path: Path) -> None:
    model = open_model(checkpoints.write_hugging_face(tmp_path / "model", context=4096))

    def maker() -> CachedText:
        if kind == "torch":
            return TorchDrafter(model.config, model.weights)
        if kind == "compiled":
            return compiled(model, tmp_path)
        path = export_onnx(model.config, model.weights, tmp_path / "model.onnx", ExportOptions(precision="float32"))
        return OnnxDrafter(path)

    text = [position * 7 % 397 for position in range(1200)]
    grown = maker()
    grown.begin(text[:500])
    grown.logits()
    for start in range(500, 1200, 100):
        grown.extend(text[start : start + 100])
        grown.logits()
    grown.rewind(1100)
    fresh = maker()
    fresh.begin(text[:1100])
    np.testing.assert_allclose(grown.logits(), fresh.logits(), atol=1e-4)
