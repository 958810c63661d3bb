"""From prompts to a draft, on tiny random models: files and shapes are right, and training makes the draft better."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from foredraft_cloud.decoder import DecoderPass, DecoderTarget, load_target
from foredraft_cloud.target import Run
from foredraft_cloud.training.collecting import (
    QUICK_ATTENTION,
    CollectOptions,
    collect,
    looping,
    pick_among,
    top_scores,
)
from foredraft_cloud.training.commands import terminating, train
from foredraft_cloud.training.distillation import distil
from foredraft_cloud.training.drafts import DraftModel
from foredraft_cloud.training.fitting import FitOptions, Progress, acceptance, fit
from foredraft_cloud.training.network import Network, layer_weights, tensor
from foredraft_cloud.training.prompts import Prompts, held_out
from foredraft_cloud.training.shards import Shards, Text, read_texts
from foredraft_cloud.training.texts import batches, split_by_prompt, spread, sub_vocabulary
from foredraft_shared.errors import ModelDamaged, UsageError
from foredraft_shared.messages import SamplingParams
from foredraft_shared.models import Model, open_model
from foredraft_shared.models.artifacts import load_artifact, prompt_hashes, save_artifact
from foredraft_shared.sampling import pick

QUESTIONS = [f"The robot takes {number} cups from the table, where are they?" for number in range(40)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("training")
    return open_model(checkpoints.write_hugging_face(folder / "target", "qwen2", layers=4))


@pytest.fixture(scope="module")
def collected(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collected") / "data"
    gather(model, folder, 1500)
    return folder


def gather(model: Model, folder: Path, tokens: int, report: Callable[[int], None] = lambda made: None) -> Shards:
    shards = Shards(folder, model, size=300)
    prompts = Prompts(model.tokenizer, QUESTIONS, done=shards.done, invented=0.2)
    target = load_target(model, dtype="float32", context=400, slots=8)
    options = CollectOptions(tokens, slots=8, answer=24, question=16)
    collect(target, model.tokenizer, prompts, shards, options, report)
    return shards


def draft_of(model: Model, texts: list[Text], vocabulary: int = 200) -> DraftModel:
    tokens = sub_vocabulary(texts, model.config.vocabulary, vocabulary, model.tokenizer.stop_tokens)
    return DraftModel(model, frozen=1, layers=[1, 2], tokens=tokens, device=CPU, dtype=torch.float32, context=400)


# --- collecting


def test_a_collection_holds_what_the_target_says(model: Model, collected: Path) -> None:
    texts = read_texts(collected, model)
    assert sum(text.answered for text in texts) >= 1400
    assert {text.temperature == 0 for text in texts} == {True, False}
    network = Network(model.config, CPU, torch.float32, 400)
    blocks = [layer_weights(model.weights, index, CPU, torch.float32) for index in range(model.config.layers)]
    for text in texts[:6]:
        assert text.top_ids.shape == text.top_log_probabilities.shape == (text.answered, 16)
        state = tensor(model.weights, "embedding.weight", CPU)[torch.from_numpy(text.tokens)][None]
        for block in blocks:
            state = network.layer(state, block)
        head = tensor(model.weights, "head.weight", CPU)
        scores = network.norm(state, tensor(model.weights, "norm.weight", CPU))[0] @ head.T
        logs = scores.log_softmax(1).numpy()[text.start - 1 : -1]
        expected = np.take_along_axis(logs, text.top_ids, 1)
        np.testing.assert_allclose(text.top_log_probabilities, expected, atol=0.02)
        if text.temperature == 0:
            assert (text.top_ids[:, 0] == text.tokens[text.start :]).all()


def test_collecting_goes_on_where_it_stopped_and_asks_nothing_twice(model: Model, tmp_path: Path) -> None:
    def stop(made: int) -> None:
        if made > 500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(model, tmp_path / "data", 900, stop)
    first = {text.key for text in read_texts(tmp_path / "data", model)}
    assert first
    assert not list((tmp_path / "data").glob("*.partial"))
    shards = gather(model, tmp_path / "data", 900)
    assert shards.done == first
    texts = read_texts(tmp_path / "data", model)
    assert shards.answered == sum(text.answered for text in texts) > 800
    counts = [sum(text.key == key for text in texts) for key in {text.key for text in texts}]
    assert max(counts) <= 4, "two answers, two turns"


def test_the_answers_of_another_model_are_refused(model: Model, collected: Path, tmp_path: Path) -> None:
    other = open_model(checkpoints.write_hugging_face(tmp_path / "other", "qwen2", layers=4, seed=9))
    with pytest.raises(UsageError, match="take another folder"):
        read_texts(collected, other)
    with pytest.raises(UsageError, match="holds no collection"):
        read_texts(tmp_path, model)


def test_answers_in_another_arithmetic_are_not_added(model: Model, collected: Path) -> None:
    Shards(collected, model)
    with pytest.raises(UsageError, match="answers in bfloat16, which are not those in w8a8; take another folder"):
        Shards(collected, model, dtype="w8a8")


def test_a_damaged_shard_is_named(model: Model, tmp_path: Path) -> None:
    gather(model, tmp_path / "data", 100)
    shard = next((tmp_path / "data").glob("shard*.npz"))
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(ModelDamaged, match="collect again"):
        read_texts(tmp_path / "data", model)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokens", lambda array: array[:-1]),
        ("lengths", lambda array: array[:-1]),
        ("starts", lambda array: array * 0),
        ("starts", lambda array: array + 1000),
        ("seeds", lambda array: array[1:]),
        ("keys", None),
        ("top_ids", lambda array: array[1:]),
        ("top_ids", lambda array: array[:, 0]),
        ("top_log_probabilities", lambda array: array[:, 1:]),
    ],
)
def test_a_shard_whose_arrays_do_not_fit_together_is_named(
    name: str, change: Any, model: Model, collected: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(collected, folder)
    shard = sorted(folder.glob("shard*.npz"))[0]
    with np.load(shard) as file:
        arrays = {each: file[each] for each in file.files}
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    np.savez(shard, **arrays)
    with pytest.raises(ModelDamaged, match=r"shard00000\.npz cannot be read \(.*\); delete it and collect again\.$"):
        read_texts(folder, model)


def test_some_texts_are_taken_from_all_over(model: Model, collected: Path) -> None:
    texts = read_texts(collected, model)
    few = spread(texts, 3)
    assert [texts.index(text) for text in few] == [0, len(texts) // 3, 2 * len(texts) // 3]
    assert len(spread(texts, len(texts) - 1)) == len(texts) - 1
    assert spread(texts, len(texts) + 1) == texts
    assert spread([], 3) == []


def test_what_a_full_disk_did_not_take_is_written_when_it_does(
    model: Model, collected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = read_texts(collected, model)[:3]
    shards = Shards(tmp_path / "data", model)

    def full(file: Any, **arrays: Any) -> None:
        file.write(b"the beginning")
        raise OSError(28, "No space left on device")

    for text in texts:
        shards.add(text)
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space"):
            shards.flush()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["collection.json"]
    assert shards.answered == 0
    shards.flush()
    shards.flush()
    assert [text.key for text in read_texts(tmp_path / "data", model)] == [text.key for text in texts]
    assert shards.answered == sum(text.answered for text in texts)


def test_picking_among_the_most_probable_is_picking(model: Model) -> None:
    generator = np.random.default_rng(3)
    for position in range(50):
        scores = 4 * generator.standard_normal(64).astype(np.float32)
        order = np.argsort(-scores)
        logs = scores[order] - np.log(np.exp(scores).sum())
        for temperature in (0.0, 0.8):
            params = SamplingParams(temperature=temperature, top_p=0.95, seed=7)
            assert pick_among(order, logs, temperature, 0.95, 7, position) == pick(scores, params, position)


def test_quick_attention_says_the_same_but_for_rounding(model: Model, collected: Path) -> None:
    texts = read_texts(collected, model)[:6]
    found = []
    for quick in (False, True):
        target = load_target(model, dtype="float32", context=400, slots=8)
        if quick:
            target.attention = QUICK_ATTENTION
        slots = [target.open() for _ in texts]
        runs = [Run(slot, tuple(text.tokens[:-1].tolist()), 0) for slot, text in zip(slots, texts, strict=True)]
        target.verify(runs, exits=False).step()
        runs = [Run(slot, (int(text.tokens[-1]),), 1) for slot, text in zip(slots, texts, strict=True)]
        found.append(top_scores(target.verify(runs, exits=False).step().logits, 8))
    (ids, logs), (quick_ids, quick_logs) = found
    np.testing.assert_array_equal(ids[:, 0], quick_ids[:, 0])
    np.testing.assert_allclose(quick_logs, logs, atol=1e-4)


def test_a_loop_is_noticed() -> None:
    assert looping([1, 2, 3] * 40)
    assert not looping([1, 2, 3] * 20)
    assert not looping(list(range(200)))


def test_what_a_text_shares_with_another_is_computed_once(model: Model, tmp_path: Path) -> None:
    class Counting(DecoderTarget):
        fed = 0

        def verify(self, batch: Sequence[Run], *, exits: bool = True) -> DecoderPass:
            self.fed += sum(len(run.tokens) for run in batch)
            return super().verify(batch, exits=exits)

    target = load_target(model, dtype="float32", context=400, slots=4)
    target.__class__ = Counting
    assert isinstance(target, Counting)
    shards = Shards(tmp_path, model)
    prompts = Prompts(model.tokenizer, [" ".join(QUESTIONS[:6])], invented=0.0, second_turns=0.0)
    collect(target, model.tokenizer, prompts, shards, CollectOptions(1000, slots=1, answer=24))
    first, second = read_texts(tmp_path, model)
    assert first.start == second.start > 64
    assert target.fed == first.start + first.answered - 1 + second.answered, "of the second text only what it says"


# --- texts


def test_all_answers_to_a_prompt_are_on_one_side(model: Model, collected: Path) -> None:
    texts = read_texts(collected, model)
    training, validation = split_by_prompt(texts, 0.2)
    assert len(training) + len(validation) == len(texts)
    assert not {text.key for text in training} & {text.key for text in validation}
    assert all(held_out(text.key, 0.2) for text in validation)


def test_batches_hold_every_text_once_within_their_size(model: Model, collected: Path) -> None:
    texts = read_texts(collected, model)
    groups = batches(texts, 300, seed=1)
    assert sorted(map(id, (text for group in groups for text in group))) == sorted(map(id, texts))
    assert all(len(group) == 1 or len(group) * max(len(text.tokens) for text in group) <= 300 for group in groups)


def test_the_sub_vocabulary_is_ascending_and_has_the_stop_tokens(model: Model, collected: Path) -> None:
    tokens = sub_vocabulary(read_texts(collected, model), model.config.vocabulary, 50, model.tokenizer.stop_tokens)
    assert len(tokens) == 50
    assert (np.diff(tokens) > 0).all()
    assert set(model.tokenizer.stop_tokens) <= set(tokens.tolist())


# --- training


@pytest.mark.parametrize("window", [None, 5])
def test_attention_by_products_has_the_gradients_of_the_fused_kernel(model: Model, window: int | None) -> None:
    found = []
    for products in (True, False):
        network = Network(replace(model.config, sliding_window=window), CPU, torch.bfloat16, 40)
        network.products = products
        weights = layer_weights(model.weights, 0, CPU, torch.bfloat16)
        for weight in weights.values():
            weight.requires_grad_()
        hidden = torch.randn(3, 40, model.config.hidden, generator=torch.Generator().manual_seed(1)).bfloat16()
        out = network.layer(hidden, weights)
        out.float().square().sum().backward()
        found.append([out.detach(), *(weight.grad for weight in weights.values())])
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None
        assert theirs is not None
        assert (ours - theirs).float().norm() < 0.03 * theirs.float().norm()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_has_the_gradient_of_what_it_says_it_is(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(size, 8, generator=generator, requires_grad=True) for size in (300, 20))
    ids = torch.rand(300, 20, generator=generator).argsort(1)[:, :6]
    probabilities = torch.rand(300, 6, generator=generator).softmax(1) * 0.9
    loss, overlap = distil(hidden, head, ids, probabilities, share)
    found = torch.autograd.grad(loss, [hidden, head])
    known = (hidden @ head.T).softmax(1).gather(1, ids)
    divergence = (probabilities * (probabilities.log() - known.log())).sum(1)
    common = torch.minimum(known, probabilities).sum(1)
    expected = ((1 - share) * divergence + share * (1 - common)).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(overlap, common.mean())
    for gradient, wanted in zip(found, torch.autograd.grad(expected, [hidden, head]), strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-4)


def test_training_on_few_texts_makes_the_draft_foresee_them(model: Model, collected: Path) -> None:
    texts = [text for text in read_texts(collected, model) if text.temperature == 0][:12]
    draft = draft_of(model, texts)
    before = acceptance(draft, texts).greedy
    losses: list[Progress] = []
    fit(draft, texts, [], FitOptions(1.0, steps=60, batch=400, learning_rate=3e-3, warm_up=5), losses.append)
    after = acceptance(draft, texts).greedy
    assert before is not None
    assert after is not None
    assert after > before + 0.3
    assert losses[-1].step == 60


def test_a_head_is_trained_and_stored_in_the_same_four_bits(model: Model, collected: Path, tmp_path: Path) -> None:
    texts = read_texts(collected, model)[:12]
    draft = draft_of(model, texts)
    fit(draft, texts, [], FitOptions(1.0, steps=3, batch=400))
    path = tmp_path / "draft.safetensors"
    save_artifact(path, "draft", model, draft.arrays(), {}, four_bits=draft.four_bits)
    stored = load_artifact(path, "draft").tensors
    np.testing.assert_allclose(draft.live["head.weight"].detach().numpy(), stored["head.weight"], rtol=0, atol=1e-6)
    assert np.abs(draft.parameters["head.weight"].numpy() - stored["head.weight"]).max() > 1e-4, "it was rounded"
    assert max(len(np.unique(block)) for block in stored["head.weight"].reshape(-1, 32)) <= 16


def test_fitting_the_head_beats_copying_it(model: Model, collected: Path) -> None:
    texts = read_texts(collected, model)
    draft = draft_of(model, texts)
    before = acceptance(draft, texts)
    assert 0.0 < draft.fit_head(texts) < 1.0
    after = acceptance(draft, texts)
    assert before.greedy is not None
    assert after.greedy is not None
    assert after.greedy > before.greedy
    assert after.coverage == before.coverage


def test_a_deeper_draft_than_its_target_is_refused(model: Model) -> None:
    for frozen, layers in ((2, [4]), (3, [1, 2])):
        with pytest.raises(UsageError):
            DraftModel(model, frozen=frozen, layers=layers, tokens=np.arange(9), device=CPU)


# --- the commands


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_commands_make_an_artifact_for_any_target(family: str, tmp_path: Path) -> None:
    target = checkpoints.write_hugging_face(tmp_path / "target", family, layers=3)
    prompts, never = tmp_path / "prompts.jsonl", tmp_path / "never.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": question}) + "\n" for question in QUESTIONS))
    never.write_text(json.dumps({"turns": [QUESTIONS[0]]}) + "\n")
    run = CliRunner().invoke
    common = ["--target", str(target), "--dtype", "float32"]
    sizes = ["--tokens", "400", "--answer", "16", "--slots", "8", "--longest", "100", "--shard", "200"]
    data = tmp_path / "data"
    options = ["collect", *common, "--prompts", str(prompts), "--never", str(never), "--out", str(data), *sizes]
    collecting = run(train, options, catch_exceptions=False)
    assert collecting.exit_code == 0
    assert "1 refused by --never" in collecting.output
    out = tmp_path / "draft.safetensors"
    shape = ["--layers", "1", "--frozen", "1", "--vocabulary", "128", "--minutes", "0.03", "--validation", "0.2"]
    trained = run(train, ["draft", *common, "--data", str(data), "--out", str(out), *shape], catch_exceptions=False)
    assert trained.exit_code == 0
    artifact = load_artifact(out, "draft")
    artifact.check(open_model(target))
    assert artifact.facts["layers"] == 2
    assert artifact.facts["trained_layers"] == [1]
    assert artifact.facts["data"]["answered_tokens"] > 200
    assert artifact.facts["validation"]["tokens"] > 0
    assert artifact.tensors["head.weight"].shape == (128, 64)
    assert not any(name.startswith("layers.0.") for name in artifact.tensors)


def test_a_draft_is_gone_on_with(model: Model, collected: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    common = ["--target", str(model.path), "--dtype", "float32", "--data", str(collected), "--validation", "0.2"]
    shape = ["--layers", "1,2", "--frozen", "1", "--vocabulary", "128", "--minutes", "0.05", "--out", str(first)]
    assert CliRunner().invoke(train, ["draft", *common, *shape], catch_exceptions=False).exit_code == 0
    more = ["--from", str(first), "--minutes", "0.01", "--rate", "0", "--out", str(second)]
    assert CliRunner().invoke(train, ["draft", *common, *more], catch_exceptions=False).exit_code == 0
    before, after = load_artifact(first, "draft"), load_artifact(second, "draft")
    assert after.facts["trained_layers"] == before.facts["trained_layers"] == [1, 2]
    assert after.facts["earlier"]["command"] == before.facts["command"]
    assert after.facts["untrained"] == pytest.approx(before.facts["validation"], abs=0.05)  # it is stored in few bits
    assert prompt_hashes(after) == prompt_hashes(before)
    for name, value in before.tensors.items():
        np.testing.assert_allclose(after.tensors[name], value, atol=0.01)


@pytest.mark.parametrize(
    ("facts", "tensors", "said"),
    [
        ({}, {}, "does not say how it was trained"),
        ({"trained_layers": [], "began_as": [1]}, {}, "does not say how it was trained"),
        ({"trained_layers": [1], "began_as": "1"}, {}, "does not say how it was trained"),
        (None, {"head.tokens": np.array([-1, 5], np.int32)}, "not ascending ids"),
        (None, {"head.tokens": np.array([5, 10**6], np.int32)}, "not ascending ids"),
        (None, {"head.weight": np.ones((3, 3), np.float32)}, "head.weight is missing, or not what it should be"),
        (None, {"norm.weight": np.full(64, np.nan, np.float32)}, "norm.weight is missing, or not what it should be"),
    ],
)
def test_a_damaged_draft_is_not_gone_on_with(
    facts: dict[str, Any] | None, tensors: dict[str, Any], said: str, model: Model, collected: Path, tmp_path: Path
) -> None:
    made = DraftModel(model, frozen=1, layers=[1], tokens=np.arange(5, 9), device=torch.device("cpu"))
    whole: dict[str, Any] = {"trained_layers": [1], "began_as": [1]}
    path = tmp_path / "first.safetensors"
    save_artifact(path, "draft", model, made.arrays() | tensors, whole if facts is None else facts)
    common = ["--target", str(model.path), "--dtype", "float32", "--data", str(collected), "--validation", "0.2"]
    more = ["--from", str(path), "--minutes", "0.01", "--out", str(tmp_path / "second.safetensors")]
    failed = CliRunner().invoke(train, ["draft", *common, *more])
    assert isinstance(failed.exception, ModelDamaged)
    assert re.search(rf"first\.safetensors is damaged \(.*{said}", str(failed.exception))
    assert str(failed.exception).endswith("; begin anew, without --from.")


def test_stopping_leaves_an_artifact_that_can_be_used(
    model: Model, collected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(
        draft: DraftModel, texts: list[Text], validation: list[Text], options: FitOptions, report: object
    ) -> None:
        fit(draft, texts, validation, replace(options, steps=2))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr("foredraft_cloud.training.fitting.fit", stopped)
    out = tmp_path / "draft.safetensors"
    common = ["--target", str(model.path), "--dtype", "float32", "--data", str(collected), "--out", str(out)]
    shape = ["--layers", "1,2", "--frozen", "1", "--vocabulary", "128", "--validation", "0.2"]
    done = CliRunner().invoke(train, ["draft", *common, *shape], catch_exceptions=False)
    assert done.exit_code == 0
    assert "what was learnt so far is kept" in done.output
    artifact = load_artifact(out, "draft")
    artifact.check(model)
    assert artifact.facts["validation"]["tokens"] > 0


def test_a_second_request_to_terminate_does_not_end_what_the_first_one_began() -> None:
    saved = False
    with terminating():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            saved = True
    assert saved
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_mistakes_are_named(tmp_path: Path) -> None:
    run = CliRunner().invoke
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"prompt": QUESTIONS[0]}))
    refused = run(train, ["collect", "--prompts", str(asked), "--never", str(asked), "--out", str(tmp_path / "data")])
    assert isinstance(refused.exception, UsageError)
    assert "give other prompts" in str(refused.exception)
    refused = run(train, ["collect", "--prompts", str(asked), "--out", str(asked)])
    assert isinstance(refused.exception, UsageError)
    assert "cannot make the folder" in str(refused.exception)
    for options, what in (
        (["--out", "draft.bin"], "call it draft.safetensors"),
        (["--out", "d.safetensors", "--device", "tpu"], "choose cpu or cuda"),
        (["--out", str(tmp_path / "asked.jsonl" / "d.safetensors")], "cannot make the folder"),
    ):
        failed = run(train, ["draft", "--data", str(tmp_path), *options])
        assert isinstance(failed.exception, UsageError)
        assert what in str(failed.exception)
