"""References to the Hugging Face hub: found in its cache without network, and clear words when they are not."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import checkpoints
import pytest

from foredraft_shared.errors import BackendMissing, ModelNotFound, ModelUnsupported
from foredraft_shared.models import hub, open_model
from foredraft_shared.models.hub import HubReference

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(folder), raising=False)
    return folder


@pytest.fixture
def cached(hub_cache: Path) -> Path:
    """A snapshot of ``someone/tiny`` in the hub's cache."""
    repository = hub_cache / "models--someone--tiny"
    snapshot = repository / "snapshots" / COMMIT
    checkpoints.write_hugging_face(snapshot, "qwen2")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


class TestReference:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Qwen/Qwen2.5-0.5B-Instruct", HubReference("Qwen/Qwen2.5-0.5B-Instruct")),
            ("a/b-GGUF:Q4_K_M", HubReference("a/b-GGUF", None, "Q4_K_M")),
            ("a/b@refs/pr/3", HubReference("a/b", "refs/pr/3")),
            ("a/b@v1.0:Q8_0", HubReference("a/b", "v1.0", "Q8_0")),
            ("a", None),
            ("a/b/c", None),
            ("a b/c", None),
            ("a/b:", None),
        ],
    )
    def test_parse(self, text: str, expected: HubReference | None) -> None:
        assert HubReference.parse(text) == expected


class TestCache:
    def test_a_checkpoint(self, cached: Path) -> None:
        model = open_model("someone/tiny", offline=True)
        assert model.path == cached
        assert model.config.family == "qwen2"
        assert len(model.weights) == 27

    def test_a_gguf_by_its_quantisation(self, cached: Path, tmp_path: Path) -> None:
        whole = checkpoints.write_gguf(checkpoints.write_hugging_face(tmp_path / "source"), tmp_path / "source.gguf")
        for name in ("tiny-Q4_K_M.gguf", "tiny-q8_0.gguf"):
            shutil.copy(whole, cached / name)
        assert open_model("someone/tiny:Q8_0", offline=True).path == cached / "tiny-q8_0.gguf"
        (cached / "config.json").unlink()
        assert open_model("someone/tiny", offline=True).path == cached / "tiny-Q4_K_M.gguf"

    def test_absent(self) -> None:
        with pytest.raises(ModelNotFound, match="offline is set"):
            open_model("someone/else", offline=True)

    def test_listed(self, cached: Path) -> None:
        ((name, size, path),) = hub.cached_models()
        assert (name, path) == ("someone/tiny", cached.parents[1])
        assert size > 100_000


class TestChoice:
    FILES = ("m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-F16.gguf", "BF16/m-BF16-00001-of-00002.gguf")

    @pytest.mark.parametrize(
        ("wanted", "expected"), [(None, "m-Q4_K_M.gguf"), ("q2_k", "m-Q2_K.gguf"), ("Q8_0", "m-Q8_0.gguf")]
    )
    def test_by_quantisation(self, wanted: str | None, expected: str) -> None:
        assert hub._choose(list(self.FILES), HubReference("a/b", None, wanted)) == expected

    def test_what_is_there_is_listed(self) -> None:
        with pytest.raises(ModelNotFound, match=r"m-Q2_K\.gguf"):
            hub._choose(list(self.FILES), HubReference("a/b", None, "Q5_0"))

    @pytest.mark.parametrize(("files", "named"), [([], "neither"), (["BF16/m-BF16-00001-of-00002.gguf"], "split")])
    def test_nothing_to_choose(self, files: list[str], named: str) -> None:
        with pytest.raises(ModelUnsupported, match=named):
            hub._choose(files, HubReference("a/b"))

    def test_the_only_one(self) -> None:
        assert hub._choose(["odd.gguf"], HubReference("a/b")) == "odd.gguf"


class TestOnline:
    """The hub's answers, given by a stand-in."""

    @staticmethod
    def failing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        import huggingface_hub

        kind = getattr(huggingface_hub.errors, name, None) or OSError

        def download(*arguments: Any, **options: Any) -> str:
            raise kind.__new__(kind) if kind is not OSError else OSError("the cable is out\nand more")

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)

    @pytest.mark.parametrize(
        ("error", "named"),
        [
            ("GatedRepoError", "gated"),
            ("RepositoryNotFoundError", "no model someone/tiny"),
            ("RevisionNotFoundError", "no revision v9"),
            ("nothing special", "the cable is out"),
        ],
    )
    def test_errors_are_one_line(self, monkeypatch: pytest.MonkeyPatch, error: str, named: str) -> None:
        self.failing(monkeypatch, error)
        with pytest.raises(ModelNotFound, match=named) as raised:
            open_model("someone/tiny@v9")
        assert "\n" not in str(raised.value)

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(BackendMissing, match="pip install"):
            open_model("someone/tiny")
        assert hub.cached_models() == []
