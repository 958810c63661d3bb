"""``foredraft bench serving``: others are asked as their users ask them, and who is not there is named with the reason."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from toy_world import VOCABULARY

from foredraft_bench.load import compare
from foredraft_bench.load.device import KnownText
from foredraft_bench.load.exchange import InProcess
from foredraft_bench.load.in_llama import InLlama
from foredraft_bench.load.others import InLlamaServer
from foredraft_bench.load.setting import Setting
from foredraft_bench.processes import Cores
from foredraft_cloud.engine import EngineOptions
from foredraft_cloud.toy import ToyTarget
from foredraft_shared.errors import BackendMissing, LinkError
from foredraft_shared.messages import SamplingParams
from foredraft_shared.models.store import locate

pytestmark = pytest.mark.timeout(120)

TEXTS = [KnownText((3, 4, number), SamplingParams(), 8) for number in range(1, 5)]

LLAMA_SERVER = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
Path({log!r}).write_text(json.dumps(given))

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({{"status": "ok"}})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["ignore_eos"] and not asked["cache_prompt"] and self.path == "/completion"
        self.answer({{"tokens_predicted": asked["n_predict"]}})
    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *arguments):
        pass

ThreadingHTTPServer(("127.0.0.1", int(given["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def llama_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name which answers as it does; returns where it writes what it was given."""
    log = tmp_path / "given.json"
    program = tmp_path / "llama-server"
    program.write_text(LLAMA_SERVER.format(python=sys.executable, log=str(log)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return log


def test_llama_server_is_given_a_slot_for_each_client_and_is_stopped(llama_server: Path):
    with InLlamaServer(Path("model.gguf"), 2, 4, 100, Cores()) as server:
        assert server.tokens_per_second(TEXTS, 4, 0.3) > 0
        given = json.loads(llama_server.read_text())
    assert (given["--parallel"], given["--ctx-size"], given["--threads"]) == ("4", "400", "2")
    assert server._process.poll() is not None


def test_llama_server_that_ends_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(LinkError, match="status 3"):
        InLlamaServer(Path("model.gguf"), 1, 1, 100, Cores())


def test_llama_server_that_is_not_there_or_cannot_read_the_model_says_so(
    monkeypatch: pytest.MonkeyPatch, llama_server: Path
):
    with pytest.raises(BackendMissing, match="GGUF"):
        InLlamaServer(Path("folder"), 1, 1, 100, Cores())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BackendMissing, match="put it on the PATH"):
        InLlamaServer(Path("model.gguf"), 1, 1, 100, Cores())


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_llama_cpp_here_writes_texts_side_by_side_one_begun_where_one_ends(smollm2: object):
    engine = InLlama(locate("smollm2-135m"), 1, 3, 64, Cores())
    passes: list[list[tuple[int, int, int]]] = []
    take = engine._pass

    def watched(seats: Any) -> Any:
        before = [(seat.sequence, len(seat.fresh), seat.length) for seat in seats]
        passes.append(before)
        return take(seats)

    engine._pass = watched  # type: ignore[method-assign]
    try:
        assert engine.tokens_per_second([KnownText(text.prompt, text.sampling, 2) for text in TEXTS], 3, 2.0) > 0
    finally:
        engine.close()
    assert passes[1] == [(0, 3, 0), (1, 3, 0), (2, 3, 0)]
    assert passes[2] == [(0, 1, 3), (1, 1, 3), (2, 1, 3)]
    assert passes[3] == passes[1]  # texts of two tokens


def test_llama_cpp_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(BackendMissing, match="install one"):
        InLlama(Path("model.gguf"), 1, 1, 100, Cores())


class _Steady:
    name = "steady"

    def tokens_per_second(self, texts: Any, sessions: int, seconds: float) -> float:
        return 100.0 * sessions


def test_the_comparison_has_a_row_for_each_engine_and_says_who_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    @contextmanager
    def toy(*arguments: object) -> Any:
        yield InProcess(ToyTarget(vocabulary=VOCABULARY, exits=(4,)), EngineOptions())

    def others(model: object, setting: Setting, cores: Cores, stack: object, notes: list[str]) -> list[Any]:
        notes.append("llama.cpp left out: llama-server is not installed")
        return [_Steady()]

    monkeypatch.setattr(compare, "open_model", lambda model: None)
    monkeypatch.setattr(compare, "known_texts", lambda model, count, max_tokens: TEXTS)
    monkeypatch.setattr(compare, "serving", toy)
    monkeypatch.setattr(compare, "_others", others)
    monkeypatch.setattr(compare, "stop_on_termination", lambda: None)
    monkeypatch.setattr(compare, "pin", lambda process, cores: None)
    path = tmp_path / "serving.json"
    compare.compare_serving(sessions="1,2", dtype=["bfloat16", "w8a8"], max_tokens=8, seconds=0.2, json_file=path)
    report = json.loads(path.read_text())
    assert len(report["rows"]) == 10
    assert [target["dtype"] for target in report["targets"]] == ["bfloat16", "w8a8"]
    assert report["left_out"] == ["llama.cpp left out: llama-server is not installed"]
    said = capsys.readouterr()
    assert "| steady | 100.0 | 200.0 |" in said.out
    assert "left out" in said.err
