"""What the target is asked: never what it is measured by, and the same split in every run."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import pytest
from typer.testing import CliRunner

from foredraft_cloud.training.commands import train
from foredraft_cloud.training.openings import read_openings
from foredraft_cloud.training.prompts import Prompts, Request, excluded_hashes, held_out, prompt_hash, read_prompts
from foredraft_shared.errors import UsageError
from foredraft_shared.models import Tokenizer, open_model

INVENTING = Request(0, (), 1.0, 0)
HELD_OUT = sorted((Path(__file__).parents[4] / "shared" / "data").glob("*_dev.jsonl"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return open_model(checkpoints.write_hugging_face(tmp_path_factory.mktemp("prompts") / "model")).tokenizer


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_hash_names_the_words_and_stays_the_same_for_ever() -> None:
    assert prompt_hash(" Why is\tthe sky  BLUE?\n") == prompt_hash("why is the sky blue?") == 5903760100560001849
    assert prompt_hash("why is the sky green?") != prompt_hash("why is the sky blue?")


def test_about_the_asked_share_of_prompts_is_held_out() -> None:
    share = sum(held_out(prompt_hash(f"question {number}"), 0.1) for number in range(5000)) / 5000
    assert 0.08 < share < 0.12


def test_prompts_are_read_from_all_three_kinds_of_lines(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "p.jsonl", {"prompt": "one"}, {"question": "two", "answer": "2"}, {"turns": ["three", "four"]}
    )
    assert read_prompts(path) == ["one", "two", "three"]
    assert excluded_hashes([path]) == {prompt_hash(word) for word in ("one", "two", "three", "four")}


def test_a_line_without_a_prompt_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 2 of .*p\.jsonl has no prompt"):
        read_prompts(lines(tmp_path / "p.jsonl", {"prompt": "one"}, {"text": "two"}))
    with pytest.raises(UsageError, match="check the path"):
        read_prompts(tmp_path / "absent.jsonl")


def test_what_must_not_be_asked_is_not_asked_and_what_was_answered_is_not_asked_again(tokenizer: Tokenizer) -> None:
    questions = [f"what is the number {number}" for number in range(20)]
    never = frozenset(prompt_hash(question.upper()) for question in questions[:5])
    done = frozenset(prompt_hash(question) for question in questions[5:8])
    prompts = Prompts(tokenizer, questions, never=never, done=done, invented=0.0, second_turns=0.0)
    assert (prompts.refused, prompts.skipped) == (5, 3)
    asked = []
    while request := prompts.next():
        asked.append(request)
    assert {request.key for request in asked} == {prompt_hash(question) for question in questions[8:]}
    assert len(asked) == 24, "two answers each"
    assert len({request.seed for request in asked}) == 24


def test_an_invented_question_is_asked_unless_it_must_not_be(tokenizer: Tokenizer) -> None:
    prompts = Prompts(tokenizer, [], never=frozenset({prompt_hash("a secret question")}), invented=0.0)
    prompts.invented(INVENTING, "A secret question", True)
    prompts.invented(INVENTING, "hm", True)
    prompts.invented(INVENTING, "where is the red cup? And what", False)
    assert prompts.next() is None
    prompts.invented(INVENTING, "where is the red cup?", True)
    request = prompts.next()
    assert request is not None
    assert tokenizer.decode(request.tokens, special=True).startswith(
        "<|im_start|>user\nwhere is the red cup?<|im_end|>"
    )


def test_a_model_that_invents_no_question_is_not_asked_for_ever(tokenizer: Tokenizer) -> None:
    prompts = Prompts(tokenizer, [], invented=0.95)
    asked = [prompts.next() for _ in range(2000)]
    assert sum(request is not None for request in asked) == 500
    prompts.invented(INVENTING, "where is the red cup?", True)
    assert prompts.next() is not None


def test_half_of_what_is_invented_begins_with_an_opening(tokenizer: Tokenizer) -> None:
    prompts = Prompts(tokenizer, [], invented=0.95, openings=["where is the", "Sum up:\n"])
    asked = [request for request in (prompts.next() for _ in range(900)) if request is not None]
    counts = {
        opening: sum(request.opening == opening for request in asked) for opening in ("", "where is the", "Sum up:\n")
    }
    assert sum(counts.values()) == 500
    assert counts[""] > 200
    assert min(counts.values()) > 80
    begun = next(request for request in asked if request.opening == "where is the")
    assert tokenizer.decode(begun.tokens, special=True) == "<|im_start|>user\nwhere is the"


@pytest.mark.parametrize(
    ("opening", "said", "whole", "question"),
    [
        ("where is the", " red cup?", True, "where is the red cup?"),
        ("Sum up:\n", "The cup is red. The robot sees", False, "Sum up:\nThe cup is red."),
        ("Dr. No", " and the robot", False, None),
        ("where is the", "", True, None),
    ],
)
def test_a_question_with_an_opening_may_stop_anywhere(
    tokenizer: Tokenizer, opening: str, said: str, whole: bool, question: str | None
) -> None:
    prompts = Prompts(tokenizer, [], invented=0.0, second_turns=0.0)
    prompts.invented(Request(0, (), 1.0, 0, opening=opening), said, whole)
    request = prompts.next()
    assert (request and request.messages[0]["content"]) == question


def test_openings_are_read_from_lines(tmp_path: Path) -> None:
    path = tmp_path / "openings.txt"
    path.write_text("Explain how\n\nSum up:\\n\n")
    assert read_openings(path) == ("Explain how", "Sum up:\n")
    path.write_text("\n")
    with pytest.raises(UsageError, match="holds no openings"):
        read_openings(path)


def test_a_follow_up_question_continues_the_conversation(tokenizer: Tokenizer) -> None:
    prompts = Prompts(tokenizer, ["where is the cup?"], invented=0.0, second_turns=1.0)
    first = prompts.next()
    assert first is not None
    prompts.next()
    prompts.answered(first, "In the sink.")
    second = prompts.next()
    assert second is not None
    assert second.key == first.key
    assert [message["role"] for message in second.messages] == ["user", "assistant", "user"]
    prompts.answered(second, "Yes.")
    assert prompts.next() is None


@pytest.mark.skipif(not HELD_OUT, reason="no files to measure by lie beside the repository")
def test_what_is_measured_by_cannot_be_collected(tmp_path: Path) -> None:
    never = excluded_hashes(HELD_OUT)
    assert len(never) > 600
    assert not never & {prompt_hash(prompt) for prompt in read_prompts(HELD_OUT[0].parent / "prompts.jsonl")}
    for path in HELD_OUT:
        options = ["--prompts", str(path), "--never", str(path), "--out", str(tmp_path / "data")]
        refused = CliRunner().invoke(train, ["collect", *options])
        assert isinstance(refused.exception, UsageError)
        assert "stands in a file named by --never" in str(refused.exception)
    assert not (tmp_path / "data").exists()
