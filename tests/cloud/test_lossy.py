"""A target that ends at an exit: what it says, what it loads, who is let in, and how its texts are told apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import decoder_models
import pytest
import torch
from toy_world import VOCABULARY

from foredraft_cloud.commands import serve
from foredraft_cloud.decoder import DecoderTarget, load_target
from foredraft_cloud.engine import Engine, EngineOptions
from foredraft_cloud.lossy import load_lossy_target
from foredraft_cloud.tally import Tally
from foredraft_cloud.target import Run
from foredraft_cloud.toy import ToyTarget
from foredraft_shared.errors import UsageError
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import Close, CloudMessage, Failure, Open, Resume, SamplingParams, TokenId, Verdict
from foredraft_shared.models import Model
from foredraft_shared.models.config import ModelConfig

TOKENS = tuple(range(7, 47))


def seen_at(target: DecoderTarget, layer: int) -> torch.Tensor:
    """The scores of all rows of a text at an exit."""
    forward = target.verify([Run(target.open(), TOKENS, len(TOKENS))])
    while (view := forward.step()).layer != layer:
        assert not view.final
    return decoder_models.scores(view.logits[0])


class Noted(Mapping[str, Any]):
    """Weights that remember which of them were read."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self._weights = weights
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._weights[name]

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


@dataclass
class Watched:
    config: ModelConfig
    weights: Noted


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_says_what_the_exit_says_and_reads_no_layer_behind_it(dtype: str):
    model = decoder_models.tiny_model("llama")
    watched = Watched(model.config, Noted(model.weights))
    lossy = load_lossy_target(watched, 2, dtype=dtype, context=128, slots=2)
    whole = load_target(model, dtype=dtype, exits=(2,), context=128, slots=2)
    assert torch.equal(seen_at(lossy, 2), seen_at(whole, 2))
    assert not torch.equal(seen_at(whole, 3), seen_at(whole, 2))
    assert {name.split(".")[1] for name in watched.weights.read if name.startswith("layers.")} == {"0", "1"}
    assert lossy.pages.page_bytes * 3 == whole.pages.page_bytes * 2


@pytest.mark.parametrize("layer", [0, 3, 4])
def test_the_exit_must_lie_within_the_model(layer: int):
    with pytest.raises(UsageError, match="from 1 to 2"):
        load_lossy_target(decoder_models.tiny_model("llama"), layer)


def opened(lossy_exit: int, options: EngineOptions, *, resumed: bool = False) -> tuple[list[CloudMessage], Tally]:
    """What a server answers to a text that allows this exit, and to its first round."""
    answers: list[CloudMessage] = []
    tally = Tally()
    engine = Engine(
        ToyTarget(vocabulary=VOCABULARY), lambda _, message: answers.append(message), options, observer=tally
    )
    ledger = Ledger(bytes(16), (1, 2, 3))
    if resumed:
        ledger.raise_epoch()
        engine.receive("a", Resume(bytes(16), ledger.epoch, (1, 2, 3), 3, lossy_exit=lossy_exit))
    else:
        engine.receive("a", Open(bytes(16), (1, 2, 3), lossy_exit=lossy_exit))
    if not answers:
        engine.receive("a", ledger.propose((4, 5)))
        while engine.step():
            pass
    return answers, tally


@pytest.mark.parametrize("resumed", [False, True])
def test_a_text_is_written_at_the_depth_it_was_asked_for_or_not_at_all(resumed: bool):
    lossy = EngineOptions(lossy_exit=3)
    (verdict,), tally = opened(3, lossy, resumed=resumed)
    assert isinstance(verdict, Verdict)
    assert tally.tokens == {"exit": verdict.accepted + 1}
    for asked, options, says in (
        (0, lossy, "--lossy"),
        (2, lossy, "layer 3 as final"),
        (3, EngineOptions(), "computes with full depth"),
    ):
        (refusal,), tally = opened(asked, options, resumed=resumed)
        assert isinstance(refusal, Failure)
        assert (refusal.code, refusal.retryable) == ("usage", False)
        assert says in refusal.message
        assert not tally.tokens


@pytest.mark.parametrize("also", [{"exits": "10"}, {"drop_confidence": 0.9}])
def test_what_does_not_go_with_it_is_said_before_the_model_is_read(also: dict[str, Any]):
    with pytest.raises(UsageError, match="leave --exits and --drop-confidence out"):
        serve(lossy_exit=20, **also)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.8, top_p=0.95, seed=4)])
def test_a_deep_exit_of_the_real_model_writes_one_text_however_it_is_written(smollm2: Model, sampling: SamplingParams):
    target = load_lossy_target(smollm2, 25, context=64, slots=3, threads=1)
    prompt = tuple(smollm2.tokenizer.encode("The capital of France is"))

    def write(*, drafts: bool, company: bool) -> list[TokenId]:
        answers: list[CloudMessage] = []
        engine = Engine(target, lambda peer, message: answers.append(message) if peer == "a" else None, options)
        ledger, other = Ledger(b"a" * 16, prompt), Ledger(b"b" * 16, (*prompt, 11, 12))
        engine.receive("a", Open(ledger.session, prompt, sampling, 12, lossy_exit=25))
        engine.receive("b", Open(other.session, tuple(other.tokens), max_tokens=20, lossy_exit=25))
        if company:
            engine.receive("b", other.request(20))
        while len(ledger.written) < 12:
            guess = known[len(ledger.written) : len(ledger.written) + 3] if drafts else []
            engine.receive("a", ledger.propose(guess))
            while not answers:
                assert engine.step() or engine.pause_s
            verdict = answers.pop()
            assert isinstance(verdict, Verdict)
            ledger.commit(verdict)
        for name in (ledger.session, other.session):
            engine.receive("a" if name == ledger.session else "b", Close(name))
        return list(ledger.written)

    options = EngineOptions(lossy_exit=25, max_draft=8)
    known: list[TokenId] = []
    known = write(drafts=False, company=False)
    assert len(set(known)) > 3
    assert write(drafts=True, company=False) == write(drafts=True, company=True) == known
