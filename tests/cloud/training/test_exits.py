"""Exit heads, from states to hints, on tiny random models: they learn, they are calibrated, and they touch no token."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from foredraft_cloud.decoder import load_target
from foredraft_cloud.exit_heads import RunLogits
from foredraft_cloud.lossy import load_lossy_target
from foredraft_cloud.target import Run
from foredraft_cloud.training import exit_training
from foredraft_cloud.training.calibrating import ExitsTrained, calibrate_exits
from foredraft_cloud.training.collecting import CollectOptions, collect
from foredraft_cloud.training.exit_training import ExitOptions, train_exits
from foredraft_cloud.training.exits import ExitModel
from foredraft_cloud.training.fitting import FitOptions, acceptance, fit
from foredraft_cloud.training.network import Network, layer_weights, tensor
from foredraft_cloud.training.prompts import Prompts
from foredraft_cloud.training.shards import Shards, Text, read_texts
from foredraft_cloud.training.states import States
from foredraft_cloud.training.texts import sub_vocabulary
from foredraft_cloud.training.verdicts import (
    Hinted,
    Played,
    Scored,
    fit_foresight,
    hinted,
    hints,
    imagined,
    quality,
    rounds,
)
from foredraft_shared.errors import ModelDamaged, UsageError, VocabularyMismatch
from foredraft_shared.messages import SamplingParams
from foredraft_shared.models import Model, open_model
from foredraft_shared.models.artifacts import (
    PROMPTS,
    Artifact,
    artifact_kind,
    load_artifact,
    prompt_hashes,
    revise_artifact,
    save_artifact,
)

QUESTIONS = [f"The robot takes {number} cups from the table, where are they?" for number in range(40)]
CPU = torch.device("cpu")
SHORT = FitOptions(1.0, steps=40, batch=400, learning_rate=3e-3, warm_up=5, total_variation=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("exits")
    return open_model(checkpoints.write_hugging_face(folder / "target", "qwen2", layers=4))


@pytest.fixture(scope="module")
def texts(model: Model, tmp_path_factory: pytest.TempPathFactory) -> list[Text]:
    folder = tmp_path_factory.mktemp("collected") / "data"
    shards = Shards(folder, model, size=300)
    target = load_target(model, dtype="float32", context=400, slots=8)
    prompts = Prompts(model.tokenizer, QUESTIONS, done=shards.done, invented=0.0)
    collect(target, model.tokenizer, prompts, shards, CollectOptions(700, slots=8, answer=24))
    return read_texts(folder, model)


def states_of(model: Model, texts: list[Text], folder: Path, layers: tuple[int, ...] = (1, 2)) -> States:
    states = States(folder, model, layers, device=CPU, dtype=torch.float32, context=400)
    states.prepare(texts)
    return states


@pytest.fixture(scope="module")
def trained(model: Model, texts: list[Text], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads after layers 1 (attention) and 2."""
    out = tmp_path_factory.mktemp("heads") / "exits.safetensors"
    options = ExitOptions((1, 2), kind="attention", vocabulary=200, validation=0.2, fit=SHORT)
    train_exits(model, texts, out, options, {"command": "test"}, device=CPU, dtype=torch.float32)
    return out


def test_states_are_what_the_layers_say(model: Model, texts: list[Text], tmp_path: Path) -> None:
    states = states_of(model, texts, tmp_path)
    network = Network(model.config, CPU, torch.float32, 400)
    text = texts[3]
    state = tensor(model.weights, "embedding.weight", CPU)[torch.from_numpy(text.tokens)][None]
    blocks = [layer_weights(model.weights, index, CPU, torch.float32) for index in range(model.config.layers)]
    for layer, block in enumerate(blocks, start=1):
        state = network.layer(state, block)
        if layer in (1, 2):
            found = states.answering([text], layer)
            torch.testing.assert_close(found, state[0, text.start - 1 : -1], atol=0.01, rtol=0.01)
    last = network.norm(state, tensor(model.weights, "norm.weight", CPU))[0, text.start - 1 : -1]
    torch.testing.assert_close(states.final([text]), last, atol=0.05, rtol=0.05)


def test_states_are_computed_once(model: Model, texts: list[Text], tmp_path: Path) -> None:
    states_of(model, texts, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert before
    states_of(model, texts, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("kind", ["mlp", "attention"])
def test_a_head_learns_what_its_texts_say(kind: str, model: Model, texts: list[Text], tmp_path: Path) -> None:
    chosen = [text for text in texts if text.temperature == 0][:12]
    states = states_of(model, chosen, tmp_path)
    tokens = sub_vocabulary(chosen, model.config.vocabulary, 200, model.tokenizer.stop_tokens)
    head = ExitModel(model, states, 2, kind, tokens)
    untouched = acceptance(head, chosen).greedy
    assert 0.0 < head.fit_map(chosen, states.final(chosen)) <= 1.0
    begun = acceptance(head, chosen).greedy
    frozen = head.head.clone()
    losses: list[float] = []
    fit(head, chosen, [], SHORT, lambda progress: losses.append(progress.loss))
    assert untouched is not None
    assert begun is not None
    assert begun > untouched, "the closed form is a good start"
    assert losses[-1] < 0.9 * losses[0], "and there is more to learn"
    assert torch.equal(head.head, frozen)


def test_impossible_exits_are_refused(model: Model, texts: list[Text], tmp_path: Path) -> None:
    states = states_of(model, texts[:4], tmp_path)
    for layer, kind, said in ((4, "mlp", "has 4"), (0, "mlp", "has 4"), (1, "linear", "choose mlp or attention")):
        with pytest.raises(UsageError, match=said):
            ExitModel(model, states, layer, kind, np.arange(9))


# --- the server's side


def logits_at(model: Model, heads: Path | None, layers: tuple[int, ...] | None, tokens: list[int]) -> list[Any]:
    """What each step of a pass over ``tokens`` sees, all rows scored."""
    artifact = load_artifact(heads, "exits") if heads else None
    target = load_target(model, dtype="float32", exits=layers, heads=artifact, context=400, slots=2)
    slot = target.open()
    seen = []
    for piece in (tokens[:20], tokens[20:]):
        forward = target.verify([Run(slot, tuple(piece), len(piece))])
        seen = [forward.step() for _ in target.exits]
    return [view.logits[0] for view in seen]


def scores_of(logits: Any) -> np.ndarray[Any, Any]:
    assert isinstance(logits, RunLogits)
    return np.stack([np.asarray(view.scores[row]) for view, row in logits.rows])  # type: ignore[attr-defined]


def test_the_server_computes_what_training_computed(
    model: Model, texts: list[Text], trained: Path, tmp_path: Path
) -> None:
    text = next(text for text in texts if len(text.tokens) > 40)
    artifact = load_artifact(trained, "exits")
    early, late, _ = logits_at(model, trained, None, text.tokens.tolist())
    states = states_of(model, [text], tmp_path)
    for layer, found in ((1, early), (2, late)):
        head = ExitModel(model, states, layer, "attention", artifact.tensors["head.tokens"].astype(np.int64))
        for name in head.parameters:
            head.parameters[name] = torch.from_numpy(artifact.tensors[f"exits.{layer}.{name}"])
        head.refresh()
        expected = head.scores([text])[-len(text.tokens) + text.start :]
        rows = scores_of(found)
        count = min(len(rows) - 1, len(expected))
        np.testing.assert_allclose(rows[-count - 1 : -1], expected[-count:].numpy(), atol=0.1, rtol=0.02)


def with_feed_forward_heads(artifact: Artifact, model: Model) -> Artifact:
    """The same artifact with heads of the other kind, of no use but to compute with."""
    config, dice = model.config, np.random.default_rng(5)
    shapes = {
        "mlp_norm.weight": (config.hidden,),
        "mlp.gate.weight": (config.feed_forward, config.hidden),
        "mlp.up.weight": (config.feed_forward, config.hidden),
        "mlp.down.weight": (config.hidden, config.feed_forward),
    }
    kept = {name: value for name, value in artifact.tensors.items() if ".attn" not in name and ".mlp" not in name}
    added = {
        f"exits.{layer}.{name}": dice.normal(0, 0.2, shape).astype(np.float32)
        for layer in (1, 2)
        for name, shape in shapes.items()
    }
    return dataclasses.replace(artifact, tensors=kept | added)


@pytest.mark.parametrize("kind", ["attention", "mlp"])
@pytest.mark.parametrize("layer", [1, 2])
def test_a_target_that_ends_at_an_exit_says_what_its_head_says_there(
    model: Model, trained: Path, texts: list[Text], layer: int, kind: str
) -> None:
    artifact = load_artifact(trained, "exits")
    if kind == "mlp":
        artifact = with_feed_forward_heads(artifact, model)
    lossy = load_lossy_target(model, layer, heads=artifact, dtype="float32", context=400, slots=2)
    whole = load_target(model, dtype="float32", exits=(layer,), heads=artifact, context=400, slots=2)
    tokens = texts[0].tokens.tolist()[:30]
    forward = whole.verify([Run(whole.open(), tuple(tokens), 10)])
    expected = scores_of(forward.step().logits[0])
    slot = lossy.open()
    # The beginning is read without being scored: the head's own layer needs the keys of those rows, too.
    lossy.verify([Run(slot, tuple(tokens[:20]), 0)]).step()
    said = scores_of(lossy.verify([Run(slot, tuple(tokens[20:]), 10)]).step().logits[0])
    ids = artifact.tensors["head.tokens"].astype(np.int64)
    np.testing.assert_allclose(said[:, ids], expected, atol=1e-4, rtol=1e-4)
    assert np.isneginf(np.delete(said, ids, 1)).all()
    assert (said.argmax(1) == ids[expected.argmax(1)]).all()


def test_a_target_cannot_end_where_there_is_no_head(model: Model, trained: Path) -> None:
    with pytest.raises(UsageError, match="only at 1, 2"):
        load_lossy_target(model, 3, heads=load_artifact(trained, "exits"))


def test_heads_change_nothing_at_full_depth(model: Model, texts: list[Text], trained: Path) -> None:
    tokens = texts[0].tokens.tolist()
    *_, without = logits_at(model, None, (), tokens)
    *_, with_heads = logits_at(model, trained, None, tokens)
    np.testing.assert_array_equal(scores_of(without), scores_of(with_heads))


def test_exits_are_those_with_a_head_unless_others_are_named(model: Model, trained: Path) -> None:
    artifact = load_artifact(trained, "exits")
    assert load_target(model, dtype="float32", exits=None, heads=artifact).exits == (1, 2, 4)
    assert load_target(model, dtype="float32", exits=(2, 3), heads=artifact).exits == (2, 3, 4)
    assert load_target(model, dtype="float32", exits=None).exits == (4,)


def test_heads_of_another_model_or_of_no_sense_are_refused(model: Model, trained: Path, tmp_path: Path) -> None:
    other = open_model(checkpoints.write_hugging_face(tmp_path / "other", "qwen2", layers=4, seed=5))
    artifact = load_artifact(trained, "exits")
    with pytest.raises(VocabularyMismatch, match="train one for this model"):
        artifact.check(other)
    facts = json.loads(json.dumps(artifact.facts))
    facts["exits"]["1"]["foresight"]["drafted"]["weights"].pop()
    save_artifact(tmp_path / "odd.safetensors", "exits", model, artifact.tensors, facts)
    with pytest.raises(
        ModelDamaged, match=r"odd\.safetensors is damaged \(its calibration of 'drafted'.*calibrate it again with"
    ):
        load_target(model, exits=None, heads=load_artifact(tmp_path / "odd.safetensors", "exits"))
    facts = json.loads(json.dumps(artifact.facts))
    facts["exits"]["2"]["foresight"]["features"] = 1
    save_artifact(tmp_path / "older.safetensors", "exits", model, artifact.tensors, facts)
    with pytest.raises(UsageError, match="reads other features"):
        load_target(model, exits=None, heads=load_artifact(tmp_path / "older.safetensors", "exits"))
    lacking = {name: value for name, value in artifact.tensors.items() if name != "exits.2.map.weight"}
    save_artifact(tmp_path / "lacking.safetensors", "exits", model, lacking, artifact.facts)
    with pytest.raises(ModelDamaged, match=r"map\.weight"):
        load_target(model, exits=None, heads=load_artifact(tmp_path / "lacking.safetensors", "exits"))


def test_a_head_foresees_greedy_and_sampled_tokens_with_a_probability(
    model: Model, texts: list[Text], trained: Path
) -> None:
    early, late, _ = logits_at(model, trained, None, texts[0].tokens.tolist())
    for logits in (early, late):
        for params in (SamplingParams(), SamplingParams(temperature=0.8, top_p=0.9, seed=3)):
            for drafted in (None, 5, 399):
                token, sure = logits.foresee(0, drafted, params, 21, 0.7)
                assert 0.0 <= sure <= 1.0
                assert 0 <= token < model.config.vocabulary


def test_what_is_foreseen_of_a_round_does_not_hang_on_others_in_the_pass(
    model: Model, texts: list[Text], trained: Path
) -> None:
    target = load_target(
        model, dtype="float32", exits=None, heads=load_artifact(trained, "exits"), context=400, slots=2
    )

    def of_the_last(*scored: int) -> list[tuple[int, float]]:
        runs = [
            Run(target.open(), tuple(text.tokens[:30].tolist()), count)
            for text, count in zip(texts[-len(scored) :], scored, strict=True)
        ]
        *_, logits = target.verify(runs).step().logits
        for run in runs:
            target.release(run.slot)
        assert logits is not None
        return [logits.foresee(row, 5, SamplingParams(), 25 + row, 0.7) for row in range(len(logits))]

    alone, beside = of_the_last(6), of_the_last(3, 6)
    assert [token for token, _ in beside] == [token for token, _ in alone]
    assert [sure for _, sure in beside] == pytest.approx([sure for _, sure in alone], abs=1e-5)


# --- rounds


def scored(text: Text, tokens: np.ndarray[Any, Any], how_right: float, seed: int = 0) -> Scored:
    """An exit that gives the target's token the highest score with this probability."""
    generator = np.random.default_rng(seed)
    scores = generator.standard_normal((text.answered, len(tokens))).astype(np.float32)
    for row, token in enumerate(text.tokens[text.start :]):
        if generator.random() < how_right:
            scores[row, int(token)] += 9.0
    return Scored(text, scores)


def test_rounds_are_walked_as_the_ledger_does(texts: list[Text], model: Model) -> None:
    tokens = np.arange(model.config.vocabulary)
    for text in texts[:10]:
        written = 0
        for played in rounds(scored(text, tokens, 0.8), tokens, imagined(1)):
            *before, last = played.reached
            assert all(row.drafted == row.token for row in before), "a row counts only if those before it stood"
            assert last.drafted != last.token, "a round ends where the draft fails, or after it"
            assert [row.drafted is None for row in played.rows] == [False] * (len(played.rows) - 1) + [True]
            written += played.accepted + 1
        assert written == text.answered


def test_foresight_is_calibrated_on_rounds_it_has_not_seen(texts: list[Text], model: Model) -> None:
    tokens = np.arange(model.config.vocabulary)
    sides: list[list[Played]] = [[], []]
    for index, text in enumerate(texts):
        if index % 4 == 0:
            devices = [imagined(index + seed) for seed in range(8)]
        for seed, device in enumerate(devices):
            sides[index % 2].extend(rounds(scored(text, tokens, 0.75, seed), tokens, device))
    foresight = fit_foresight(sides[0])
    worth = quality(hints(foresight, sides[1]))
    assert worth.rounds > 300
    assert worth.ece < 0.1
    assert worth.right > 0.4
    precise = [share for share in worth.precision if share is not None]
    assert precise[-1] > precise[0], "who is surer is right more often"
    assert worth.coverage == sorted(worth.coverage, reverse=True)


def test_a_hint_is_right_only_with_count_and_token(texts: list[Text], model: Model) -> None:
    tokens = np.arange(model.config.vocabulary)
    found = [played for text in texts for played in rounds(scored(text, tokens, 0.9), tokens, imagined(0))]
    foresight = fit_foresight(found)
    outcomes = set()
    for played in found:
        said = [foresight(row.seen, row.drafted)[0] for row in played.rows]
        count = next(index for index, row in enumerate(played.rows) if said[index] != row.drafted)
        right = count == played.accepted and said[count] == played.rows[count].token
        assert hinted(foresight, played).right == right
        outcomes.add((right, count == played.accepted))
    assert outcomes == {(True, True), (False, True), (False, False)}


def test_quality_counts_by_confidence() -> None:
    worth = quality([Hinted(0.95, True), Hinted(0.85, True), Hinted(0.85, False), Hinted(0.2, False)])
    assert worth.right == 0.5
    assert worth.precision[worth.at.index(0.8)] == pytest.approx(2 / 3)
    assert worth.coverage[worth.at.index(0.8)] == 0.75
    assert worth.precision[worth.at.index(0.95)] == 1.0
    assert quality([]).precision == [None] * 6


# --- runs that are stopped


def test_finished_exits_are_kept_and_a_stopped_one_is_saved_but_begun_anew(
    model: Model, texts: list[Text], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []

    def stopping(student: Any, *rest: Any) -> Any:
        fitted.append(student.layer)
        if fitted == [1, 2]:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        return fit(student, *rest)

    monkeypatch.setattr(exit_training, "fit", stopping)
    before = signal.getsignal(signal.SIGTERM)
    out = tmp_path / "exits.safetensors"
    options = ExitOptions((1, 2), kind="mlp", vocabulary=100, validation=0.2, fit=replace(SHORT, steps=2))

    def run() -> dict[str, Any]:
        return train_exits(model, texts, out, options, {}, device=CPU, dtype=torch.float32, report=told.append)

    told: list[ExitsTrained] = []
    with pytest.raises(KeyboardInterrupt):
        run()
    signal.signal(signal.SIGTERM, before)
    facts = load_artifact(out, "exits").facts["exits"]
    assert (facts["1"]["finished"], facts["2"]["finished"]) == (True, False)
    assert load_target(model, exits=None, heads=load_artifact(out, "exits")).exits == (1, 2, 4), "it can be used"
    told.clear()
    facts = run()
    assert fitted == [1, 2, 2]
    assert [each.layer for each in told if each.stage == "kept"] == [1]
    assert facts["exits"]["2"]["finished"]
    assert not out.with_suffix(".states").exists()
    with pytest.raises(UsageError, match="other options"):
        train_exits(model, texts, out, replace(options, kind="attention"), {}, device=CPU, dtype=torch.float32)


# --- calibrating again


def copied(trained: Path, folder: Path, model: Model, **odd: Any) -> Artifact:
    """The heads in a file of their own, exits noted as ``odd`` says."""
    path = folder / "exits.safetensors"
    shutil.copy(trained, path)
    facts = json.loads(json.dumps(load_artifact(path, "exits").facts))
    for fact in facts["exits"].values():
        fact.update(odd)
    revise_artifact(load_artifact(path, "exits"), facts, {})
    return load_artifact(path, "exits")


def calibrate(model: Model, texts: list[Text], artifact: Artifact, **more: Any) -> None:
    calibrate_exits(model, texts, artifact, {"command": "again"}, device=CPU, dtype=torch.float32, **more)


def test_heads_are_calibrated_again_and_keep_every_bit(
    model: Model, texts: list[Text], trained: Path, tmp_path: Path
) -> None:
    artifact = copied(trained, tmp_path, model, foresight={"features": 1}, hints={})
    with pytest.raises(
        UsageError, match=r"other features\); calibrate it again with `foredraft train calibrate --heads"
    ):
        load_target(model, exits=None, heads=artifact)
    before = load_file(artifact.path)
    told: list[ExitsTrained] = []
    calibrate(model, texts, artifact, report=told.append)
    assert [each.layer for each in told if each.stage == "finished"] == [1, 2]
    after = load_file(artifact.path)
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    again, first = load_artifact(artifact.path, "exits"), load_artifact(trained, "exits")
    assert load_target(model, dtype="float32", exits=None, heads=again).exits == (1, 2, 4)
    assert {**again.facts, "exits": None} == {**first.facts, "exits": None}
    for layer in ("1", "2"):
        was, now = first.facts["exits"][layer], again.facts["exits"][layer]
        held_out = [text for text in texts if text.key / 2**64 < 0.2]
        assert now["calibrated"]["command"] == "again"
        assert now["calibrated"]["data"]["prompts"] == len({text.key for text in held_out})
        assert now["hints"]["rounds"] == was["hints"]["rounds"] > 0, "the same texts, played in the same way"
        assert now["hints"]["right"] == pytest.approx(was["hints"]["right"], abs=0.1), "weights are rounded by now"
        kept = {"hints", "foresight", "calibrated"}
        assert {name: now[name] for name in now.keys() - kept} == {name: was[name] for name in was.keys() - kept}
    assert os.listdir(tmp_path) == ["exits.safetensors"], "nothing is left beside it"


def test_what_calibrated_them_is_noted_among_their_prompts(
    model: Model, texts: list[Text], trained: Path, tmp_path: Path
) -> None:
    artifact = copied(trained, tmp_path, model)
    revise_artifact(artifact, artifact.facts, {PROMPTS: np.array([[5, 0]], np.int32)})
    calibrate(model, texts, load_artifact(artifact.path, "exits"))
    found = prompt_hashes(load_artifact(artifact.path, "exits"))
    assert found == {5} | {text.key for text in texts if text.key / 2**64 < 0.2}


def test_a_stopped_calibration_leaves_the_file_as_it_was(
    model: Model, texts: list[Text], trained: Path, tmp_path: Path
) -> None:
    artifact = copied(trained, tmp_path, model)
    before = artifact.path.read_bytes()

    def stopping(told: ExitsTrained) -> None:
        if (told.layer, told.stage) == (2, "calibrate"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(model, texts, artifact, report=stopping)
    assert artifact.path.read_bytes() == before
    assert os.listdir(tmp_path) == ["exits.safetensors"]


def test_a_file_that_somebody_else_has_changed_is_left_alone(
    model: Model, texts: list[Text], trained: Path, tmp_path: Path
) -> None:
    artifact = copied(trained, tmp_path, model)
    revise_artifact(artifact, {**artifact.facts, "changed": True}, {})
    with pytest.raises(UsageError, match="changed by somebody else"):
        calibrate(model, texts, artifact)
    assert load_artifact(artifact.path, "exits").facts["changed"]


def test_nothing_is_calibrated_on_what_was_trained_on(
    model: Model, texts: list[Text], trained: Path, tmp_path: Path
) -> None:
    artifact = copied(trained, tmp_path, model)
    with pytest.raises(UsageError, match="none was held out when these heads were trained; collect more"):
        calibrate(model, [text for text in texts if text.key / 2**64 >= 0.2], artifact)
    for share in (None, "some", 0.0, 1.5, True):
        with pytest.raises(ModelDamaged, match="does not say which prompts were held out"):
            calibrate(model, texts, replace(artifact, facts={**artifact.facts, "validation": share}))
    assert artifact_kind(artifact.path) == "exits"


def test_exits_of_another_calibration_are_not_kept_beside_new_ones(
    model: Model, texts: list[Text], trained: Path, tmp_path: Path
) -> None:
    artifact = copied(trained, tmp_path, model, foresight={"features": 1})
    options = ExitOptions((1, 2, 3), kind="attention", vocabulary=200, validation=0.2, fit=SHORT)
    with pytest.raises(UsageError, match="calibrate it again with `foredraft train calibrate"):
        train_exits(model, texts, artifact.path, options, {}, device=CPU, dtype=torch.float32)
