"""Other programs in this process: the target's tokens with an assistant and without, and what they cannot run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import checkpoints
import pytest
import torch

from foredraft_bench.peers.engines import ENGINES, Order, Set, drafted_model, llama_engine, transformers_engine
from foredraft_shared.errors import ModelUnsupported


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A target and a draft of half its layers."""
    folder = tmp_path_factory.mktemp("peers")
    target = checkpoints.write_hugging_face(folder / "target", layers=4)
    return target, checkpoints.write_hugging_face(folder / "draft", layers=2)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def given(target: Path, draft: str = "", engine: str = "transformers", dtype: str = "float32") -> Set:
    return Set(engine, str(target), draft, dtype, longest=64, offline=True)


def order(stops: list[int] | None = None, max_tokens: int = 24, first: int = 11) -> Order:
    return Order([first, 5, 7, 9], max_tokens, stops or [], temperature=0.0, top_p=1.0, seed=0)


def written(setting: Set, asked: Order) -> list[list[int]]:
    """What the engine told, commit by commit."""
    told: list[list[int]] = []
    ENGINES[setting.engine](setting)(asked, lambda tokens: told.append(list(tokens)))
    return told


def joined(told: list[list[int]]) -> list[int]:
    return [token for tokens in told for token in tokens]


def test_an_assistant_changes_when_tokens_come_and_not_which(pair: tuple[Path, Path]) -> None:
    target, draft = pair
    plain = written(given(target), order())
    assisted = written(given(target, f"torch:{draft}"), order())
    assert [len(tokens) for tokens in plain] == [1] * 24
    assert joined(assisted) == joined(plain)
    itself = written(given(target, f"onnx-float32:{target}"), order())
    assert joined(itself) == joined(plain)
    assert max(len(tokens) for tokens in itself) > 1


def test_a_stop_ends_the_text_and_nothing_else_does(pair: tuple[Path, Path]) -> None:
    target, draft = pair
    text = joined(written(given(target), order()))
    stop = text[6]
    ended = text[: text.index(stop) + 1]
    for spec in ("", f"torch:{draft}"):
        assert joined(written(given(target, spec), order([stop]))) == ended


def test_one_text_after_another_is_as_if_it_were_the_first(pair: tuple[Path, Path]) -> None:
    write = transformers_engine(given(pair[0], f"torch:{pair[1]}"))
    texts: list[list[int]] = []
    for first in (11, 40, 11):
        text: list[int] = []
        write(order(first=first), text.extend)
        texts.append(text)
    assert texts[0] == texts[2]
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        ("small", ("small", None, True)),
        ("onnx:small", ("small", None, True)),
        ("onnx-int8:small", ("small", None, True)),
        ("onnx-float32:small", ("small", None, False)),
        ("torch:small", ("small", None, False)),
        ("torch", ("target", None, False)),
        ("llama:small.gguf", ("small.gguf", None, False)),
        ("first:6", ("target", 6, True)),
        ("first:6:small", ("small", 6, True)),
    ],
)
def test_what_of_a_draft_others_can_run(draft: str, expected: tuple[str, int | None, bool]) -> None:
    assert drafted_model(draft, "target") == expected


@pytest.mark.parametrize("draft", ["draft:target", "ngram", "ngram:4", "onnx-int4:small"])
def test_drafts_that_only_foredraft_runs(draft: str) -> None:
    with pytest.raises(ModelUnsupported, match="only foredraft runs a draft such as"):
        drafted_model(draft, "target")


def test_an_arithmetic_that_only_foredraft_has(pair: tuple[Path, Path]) -> None:
    with pytest.raises(ModelUnsupported, match="transformers does not compute in w8a8"):
        transformers_engine(given(pair[0], dtype="w8a8"))


def test_llama_itself_writes_the_same_with_a_draft(pair: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    target, draft = (checkpoints.write_gguf(each, tmp_path / f"{each.name}.gguf", "F32") for each in pair)
    plain = written(given(target, engine="llama.cpp"), order())
    drafted = written(given(target, f"llama:{draft}", "llama.cpp"), order())
    assert len(joined(plain)) == 24
    assert joined(drafted) == joined(plain)
    with pytest.raises(ModelUnsupported, match="made of the target's own file"):
        llama_engine(given(target, f"onnx-int8:{target}", "llama.cpp"))
