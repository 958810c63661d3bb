"""From a spec to a drafter, and what is said when that fails."""

from __future__ import annotations

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import checkpoints
import pytest

from foredraft_edge.drafters import load_drafter, loading
from foredraft_edge.drafters.compiled import CompiledDrafter
from foredraft_edge.drafters.ngram import NgramDrafter
from foredraft_edge.drafters.onnx import OnnxDrafter
from foredraft_edge.drafters.torch import TorchDrafter
from foredraft_shared.errors import (
    BackendMissing,
    ForedraftError,
    ModelDamaged,
    ModelNotFound,
    UsageError,
    VocabularyMismatch,
)
from foredraft_shared.kernels import library as kernels
from foredraft_shared.messages import SamplingParams
from foredraft_shared.models import Model, open_model

needs_kernels = pytest.mark.skipif(kernels.library() is None, reason="no compiled kernels on this machine")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return open_model(checkpoints.write_hugging_face(tmp_path_factory.mktemp("models") / "tiny", layers=3))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOREDRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@needs_kernels
def test_a_model_runs_in_compiled_kernels_and_is_packed_once(model: Model, cache: Path) -> None:
    for spec in (model.path, str(model.path), f"compiled:{model.path}"):
        drafter, tokenizer = load_drafter(spec)
        assert isinstance(drafter, CompiledDrafter)
        assert tokenizer is not None
        assert drafter.vocabulary == tokenizer.fingerprint == model.tokenizer.fingerprint
    assert [path.suffix for path in (cache / "drafts").iterdir()] == [".safetensors"]
    assert isinstance(load_drafter("first:2", target=model.path)[0], CompiledDrafter)


@needs_kernels
def test_a_packed_file_that_is_damaged_says_what_to_do(model: Model, cache: Path) -> None:
    load_drafter(model.path)
    (file,) = (cache / "drafts").iterdir()
    for content in (file.read_bytes()[:-100], b"", b"nothing of the kind"):
        file.write_bytes(content)
        with pytest.raises(ModelDamaged, match="delete it"):
            load_drafter(model.path)


@pytest.mark.parametrize("spec", ["{}", "onnx:{}"])
def test_a_cache_that_cannot_be_written_is_named(
    spec: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FOREDRAFT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"cannot be written to .*file/drafts .*FOREDRAFT_CACHE"):
        load_drafter(spec.format(model.path))


def test_without_compiled_kernels_a_model_runs_by_onnxruntime(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_found", lambda *_: kernels.Missing("there is no C++ compiler", "install g++"))
    for spec in (f"{model.path}", f"first:2:{model.path}"):
        assert isinstance(load_drafter(spec)[0], OnnxDrafter)
    with pytest.raises(BackendMissing, match="there is no C\\+\\+ compiler; install g\\+\\+, or draft with onnx"):
        load_drafter(f"compiled:{model.path}")


def test_a_model_runs_by_onnxruntime_and_is_exported_once(model: Model, cache: Path) -> None:
    for spec in (f"onnx:{model.path}", f"onnx-int8:{model.path}"):
        drafter, tokenizer = load_drafter(spec)
        assert isinstance(drafter, OnnxDrafter)
        assert tokenizer is not None
        assert drafter.vocabulary == tokenizer.fingerprint == model.tokenizer.fingerprint
    (file,) = (cache / "drafts").glob("*.onnx")
    exported, tokenizer = load_drafter(file)
    assert exported.vocabulary == model.tokenizer.fingerprint
    assert tokenizer is None


def test_a_gguf_drafts_what_its_folder_drafts(model: Model, tmp_path: Path) -> None:
    texts = []
    for path in (model.path, checkpoints.write_gguf(model.path, tmp_path / "tiny.gguf")):
        drafter, _ = load_drafter(f"onnx-float32:{path}")
        drafter.begin([1, 2, 3])
        texts.append([proposal.token for proposal in drafter.draft(20, SamplingParams())])
    assert texts[0] == texts[1]


def test_the_other_kinds(model: Model) -> None:
    shallow, _ = load_drafter("first:2", model.tokenizer, target=model.path)
    assert isinstance(shallow, (CompiledDrafter, OnnxDrafter))
    assert shallow.layers == 2
    named, tokenizer = load_drafter(f"first:1:{model.path}")
    assert isinstance(named, (CompiledDrafter, OnnxDrafter))
    assert (named.layers, tokenizer is not None) == (1, True)
    assert isinstance(load_drafter(f"torch:{model.path}")[0], TorchDrafter)
    assert load_drafter(f"onnx-int4:{model.path}")[0].vocabulary == model.tokenizer.fingerprint
    ngram, tokenizer = load_drafter("ngram", model.tokenizer)
    assert isinstance(ngram, NgramDrafter)
    assert ngram.vocabulary == model.tokenizer.fingerprint
    assert tokenizer is model.tokenizer
    assert load_drafter("ngram:3")[0].vocabulary == ""


def test_another_vocabulary_is_refused(model: Model, tmp_path: Path) -> None:
    other = open_model(checkpoints.write_hugging_face(tmp_path / "other", "mistral"))
    if other.tokenizer.fingerprint == model.tokenizer.fingerprint:
        pytest.skip("the tiny tokenizers came out alike")
    with pytest.raises(VocabularyMismatch, match="different tokenizers"):
        load_drafter(model.path, other.tokenizer)


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("", UsageError, "empty"),
        ("first:", UsageError, "number of layers"),
        ("first:six", UsageError, "number of layers"),
        ("first:2", UsageError, "first:2:MODEL"),
        ("onnx:", UsageError, "after the colon"),
        ("ngram:many", UsageError, "ngram:4"),
        ("ngram:0", UsageError, "n-gram"),
        ("no/such/model.gguf", ForedraftError, "no/such/model"),
    ],
)
def test_a_bad_spec_is_answered_in_one_line(spec: str, error: type[ForedraftError], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        load_drafter(spec, offline=True)
    assert "\n" not in str(caught.value)


def test_an_exported_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=re.escape("gone.onnx")):
        load_drafter(str(tmp_path / "gone.onnx"))


@pytest.mark.parametrize(
    ("module", "spec"), [("onnxruntime", "onnx:{}"), ("llama_cpp", "llama:{}"), ("torch", "torch:{}")]
)
def test_a_missing_backend_says_what_to_install(
    module: str, spec: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "foredraft_edge.drafters.torch", raising=False)
    monkeypatch.delitem(sys.modules, "foredraft_edge.drafters.llama", raising=False)
    with pytest.raises(BackendMissing, match="pip install 'foredraft"):
        load_drafter(spec.format(model.path))


def test_the_documented_drafter(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "drafters.md").read_text("utf-8")
    (source,) = (code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "HabitDrafter" in code)
    assert source.count("\n") <= 60
    module: Any = ModuleType("my_drafters")
    exec(compile(source, "docs/drafters.md", "exec"), module.__dict__)  # noqa: S102
    monkeypatch.setitem(sys.modules, "my_drafters", module)
    entry = EntryPoint("habit", "my_drafters:habit", loading.GROUP)
    monkeypatch.setattr(loading, "entry_points", lambda group: [entry] if group == loading.GROUP else [])
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the robot takes the red cup; " * 3)
    drafter, tokenizer = load_drafter(f"habit:{corpus}", model.tokenizer)
    assert tokenizer is model.tokenizer
    drafter.begin(model.tokenizer.encode("the robot"))
    proposals = list(drafter.draft(4, SamplingParams()))
    assert len(proposals) == 4
    assert all(0 < proposal.probability <= 1 for proposal in proposals)
    broken = EntryPoint("habit", "no_such_module:habit", loading.GROUP)
    monkeypatch.setattr(loading, "entry_points", lambda group: [broken])
    with pytest.raises(BackendMissing, match="no_such_module"):
        load_drafter("habit:x")
