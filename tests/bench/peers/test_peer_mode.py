"""A peer's process, with a double of llama-cpp-python: started, pinned, asked, and gone when it should be."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import checkpoints
import pytest

from foredraft_bench.modes import Place, Task
from foredraft_bench.peers.mode import PEERS, PeerMode
from foredraft_edge.client import Client
from foredraft_shared.errors import LinkError
from foredraft_shared.messages import SamplingParams

DOUBLE = """
import os, signal, sys, time
import numpy as np

print("llama.cpp tells its whole life")

def following(text):
    return (31 * text[-1] + 7) % 400

class Llama:
    def __init__(self, model_path, n_ctx, n_threads, n_threads_batch, verbose, draft_model=None, logits_all=False):
        if "damaged" in model_path:
            raise ValueError("Failed to load model\\nfrom file.")
        assert n_threads == n_threads_batch == 1 and n_ctx >= 100
        assert logits_all == (draft_model is not None)
        self.draft_model = draft_model

    def reset(self):
        pass

    def set_seed(self, seed):
        if seed == 13:
            print("out of luck", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == 14:
            time.sleep(60)

    def generate(self, tokens, temp, top_k=40, top_p=0.95, min_p=0.05):
        text = list(tokens)
        while True:
            text.append(following(text))
            yield text[-1]
            drafted = [] if self.draft_model is None else self.draft_model(np.array(text, dtype=np.intc))
            for token in drafted:
                assert token == following(text)
                text.append(int(token))
                yield text[-1]
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """GGUF files by name, all of the same tiny model."""
    folder = tmp_path_factory.mktemp("files")
    target = checkpoints.write_hugging_face(folder / "target", layers=1)
    return {
        name: checkpoints.write_gguf(target, folder / f"{name}.gguf", "F32") for name in ("target", "small", "damaged")
    }


@pytest.fixture(autouse=True)
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a package that processes started from here import in place of the real one."""
    package = tmp_path / "double" / "llama_cpp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(DOUBLE)
    (package / "llama_speculative.py").write_text("class LlamaDraftModel:\n    pass\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), *filter(None, sys.path)]))
    return package


@pytest.fixture
def mode(request: pytest.FixtureRequest) -> Iterator[PeerMode]:
    found = PEERS[getattr(request, "param", "llama.cpp")]
    yield found
    found.close()
    assert found.process_id is None


def place(target: Path, draft: str = "", **more: Any) -> Place:
    client = SimpleNamespace(drafter=object() if draft else None, tokenizer=SimpleNamespace(stop_tokens=(44,)))
    return Place(cast(Client, client), str(target), "float32", draft, longest=100, **more)


def task(max_tokens: int = 24, seed: int = 0, past_the_end: bool = True) -> Task:
    return Task([11, 5], SamplingParams(seed=seed), max_tokens, past_the_end)


def following(count: int) -> tuple[int, ...]:
    text = [5]
    for _ in range(count):
        text.append((31 * text[-1] + 7) % 400)
    return tuple(text[1:])


@pytest.mark.parametrize("mode", ["llama.cpp", "llama.cpp-draft"], indirect=True)
def test_it_writes_what_its_program_says_on_the_cores_it_was_given(mode: PeerMode, files: dict[str, Path]) -> None:
    core = min(os.sched_getaffinity(0))
    here = place(files["target"], f"llama:{files['small']}", cores=(core,))
    assert mode.unavailable(here) == ""
    assert mode.process_id is not None
    assert os.sched_getaffinity(mode.process_id) == {core}
    answer = mode.answer(here, task())
    assert answer.tokens == following(24)
    assert answer.finish == "length"
    assert list(answer.arrived_ms) == sorted(answer.arrived_ms)
    assert answer.arrived_ms[0] > 0
    stop = following(3)[-1]
    here.client.tokenizer.stop_tokens = (stop,)  # type: ignore[misc]
    ended = mode.answer(here, task(past_the_end=False))
    assert ended.tokens == following(3)
    assert ended.finish == "stop"


def test_a_process_that_dies_is_told_with_its_last_words(mode: PeerMode, files: dict[str, Path]) -> None:
    here = place(files["target"])
    assert mode.unavailable(here) == ""
    with pytest.raises(LinkError, match=r"the process of llama\.cpp ended: out of luck; leave its modes out"):
        mode.answer(here, task(seed=13))
    mode.close()
    assert mode.unavailable(here) == ""
    assert mode.process_id is not None
    os.kill(mode.process_id, signal.SIGKILL)
    with pytest.raises(LinkError, match="the process of llama"):
        mode.answer(here, task())


def test_closing_ends_the_process(mode: PeerMode, files: dict[str, Path]) -> None:
    assert mode.unavailable(place(files["target"])) == ""
    number = mode.process_id
    assert number is not None
    mode.close()
    mode.close()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_ctrl_c_in_the_middle_of_a_text_leaves_a_process_that_can_be_ended(
    mode: PeerMode, files: dict[str, Path]
) -> None:
    assert mode.unavailable(place(files["target"])) == ""
    assert mode.process_id is not None
    assert os.getsid(mode.process_id) == mode.process_id  # Ctrl-C goes to us alone
    interrupt = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT])
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        mode.answer(place(files["target"]), task(seed=14))
    interrupt.join()
    number = mode.process_id
    mode.close()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_what_cannot_run_says_why_and_leaves_nothing_behind(files: dict[str, Path]) -> None:
    plain, drafting = PEERS["llama.cpp"], PEERS["llama.cpp-draft"]
    reasons = [
        plain.unavailable(place(files["damaged"])),
        plain.unavailable(place(files["target"].parent / "target")),
        drafting.unavailable(place(files["target"])),
        drafting.unavailable(place(files["target"], f"onnx-int8:{files['target']}")),
    ]
    assert reasons == [
        "Failed to load model from file",
        "llama.cpp reads GGUF files, and target is none",
        "there is no draft model; name one with --draft",
        "the draft is made of the target's own file; name a smaller GGUF file with --draft",
    ]
    assert plain.process_id is None
    assert drafting.process_id is None


def test_one_that_is_not_installed_is_left_out(
    mode: PeerMode, files: dict[str, Path], double: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (double / "__init__.py").write_text("raise ImportError('as if it were not there')\n")
    assert mode.unavailable(place(files["target"])) == (
        "llama-cpp-python is not installed; pip install 'foredraft[llama]'"
    )
