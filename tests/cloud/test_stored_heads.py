"""Files of exit heads that are not what they should be: each is refused in one line, or computes with numbers."""

from __future__ import annotations

import dataclasses
import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from decoder_models import tiny_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_heads import LAYER, MODEL, TOKENS, heads

from foredraft_cloud.lossy import load_lossy_target
from foredraft_cloud.stored_heads import layers_of, stored_heads
from foredraft_cloud.trained_heads import trained_heads
from foredraft_cloud.transformer import Transformer
from foredraft_shared.errors import ForedraftError, ModelDamaged
from foredraft_shared.messages import SamplingParams
from foredraft_shared.models import open_model
from foredraft_shared.models.artifacts import (
    PROMPTS,
    Artifact,
    load_artifact,
    prompt_hashes,
    prompts_tensor,
    save_artifact,
)

KINDS = ("attention", "mlp")
MAP = f"exits.{LAYER}.map.weight"


def changed(artifact: Artifact, tensors: dict[str, Any], facts: dict[str, Any] | None = None) -> Artifact:
    """With other tensors; ``None`` takes one away."""
    kept = {name: value for name, value in {**artifact.tensors, **tensors}.items() if value is not None}
    return dataclasses.replace(artifact, tensors=kept, facts=artifact.facts if facts is None else facts)


def read(artifact: Artifact) -> Any:
    model = tiny_model(MODEL)
    return stored_heads(artifact, model.config, model.weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "llama-tied-biased", "qwen2", "qwen3"])
def test_what_was_stored_is_found_again(kind: str, name: str) -> None:
    model = tiny_model(name)
    artifact = heads(kind, model)
    stored = stored_heads(artifact, model.config, model.weights)
    assert layers_of(artifact) == (LAYER,) == tuple(stored.heads)
    assert stored.tokens.tolist() == TOKENS.tolist()
    assert stored.heads[LAYER].attends == (kind == "attention")
    for part, value in stored.heads[LAYER].tensors.items():
        np.testing.assert_array_equal(value, artifact.tensors[f"exits.{LAYER}.{part}"])


@pytest.mark.parametrize(
    "name", ["exits.x", "exits.", "exits", "exits.x.map", "exits.-1.map", "exits.01.map", "exits.٣.map", "exits.1"]
)
def test_a_tensor_that_names_no_layer_is_told_of(name: str) -> None:
    with pytest.raises(
        ModelDamaged, match=r"^exits\.safetensors is damaged \(it has a tensor '.*', which names no layer\); train"
    ):
        layers_of(changed(heads(), {name: np.ones(3, np.float32)}))


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([-1, 5, 7], "not ascending ids from 0 to 319"),
        ([3, 5, 320], "not ascending ids from 0 to 319"),
        ([3, 5, 5], "not ascending ids"),
        ([5, 3, 7], "not ascending ids"),
        ([], "no list of ids"),
        ([[3, 5], [7, 9]], "no list of ids"),
        (7, "no list of ids"),
        ([3.0, 5.0], "no list of ids"),
        (None, "lacks head.tokens"),
    ],
)
def test_ids_that_the_target_has_not_or_twice_are_refused(ids: Any, said: str) -> None:
    kind = np.int32 if np.asarray(ids or [0]).dtype.kind == "i" else np.float32
    tokens = None if ids is None else np.array(ids, kind)
    with pytest.raises(ModelDamaged, match=rf"exits\.safetensors is damaged \(.*{said}.*\); train its exits again\.$"):
        read(changed(heads(), {"head.tokens": tokens}))


@pytest.mark.parametrize(
    ("kind", "tensors", "said"),
    [
        *(
            (kind, {name: None}, f"lacks {name}")
            for kind in KINDS
            for name in heads(kind).tensors
            if "norm" not in name
        ),
        ("attention", {f"exits.{LAYER}.attn_norm.weight": None}, "lacks exits.1.attn_norm.weight"),
        ("mlp", {f"exits.{LAYER}.attn_norm.weight": np.ones(96, np.float32)}, "lacks exits.1.attn.q.weight"),
        (
            "attention",
            {f"exits.{LAYER}.attn.k.weight": np.ones((64, 96), np.float32)},
            "attn.k.weight', which no head has",
        ),
        ("attention", {f"exits.{LAYER}.attn.q.bias": np.ones(192, np.float32)}, "attn.q.bias', which no head has"),
        ("mlp", {f"exits.{LAYER}.mapp.weight": np.ones(8, np.float32)}, "mapp.weight', which no head has"),
        ("mlp", {MAP: np.full((96, 96), np.nan, np.float32)}, "map.weight has what is no number"),
        ("mlp", {MAP: np.full((96, 96), np.inf, np.float32)}, "map.weight has what is no number"),
        ("mlp", {MAP: np.ones((96, 95), np.float32)}, r"map.weight has shape \[96, 95\], expected \[96, 96\]"),
        ("mlp", {"exits.2.map.weight": np.ones((96, 96), np.float32)}, "speaks of exits 1 and holds 1, 2"),
    ],
)
def test_tensors_that_are_no_head_are_refused(kind: str, tensors: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelDamaged, match=rf"exits\.safetensors is damaged \(.*{said}.*\); train its exits again\.$"):
        read(changed(heads(kind), tensors))


@pytest.mark.parametrize("layer", [3, 9])
def test_a_head_behind_the_targets_last_layer_is_refused(layer: int) -> None:
    artifact = heads()
    moved = {name.replace(f"exits.{LAYER}.", f"exits.{layer}."): value for name, value in artifact.tensors.items()}
    facts = {"exits": {str(layer): artifact.facts["exits"][str(LAYER)]}}
    with pytest.raises(ModelDamaged, match=f"a head after layer {layer}, where the target has no other"):
        read(dataclasses.replace(artifact, tensors=moved, facts=facts))


@pytest.mark.parametrize(
    "facts", [{}, {"exits": None}, {"exits": []}, {"exits": {}}, {"exits": {"1": {}, "2": {}}}, {"exits": {"1": None}}]
)
def test_facts_that_speak_of_other_exits_are_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(ModelDamaged, match=r"exits\.safetensors is damaged \(.*\); train its exits again\.$"):
        read(changed(heads(), {}, facts))


def test_a_target_that_ends_at_a_damaged_head_says_which_file_it_is() -> None:
    short = changed(heads(), {f"exits.{LAYER}.mlp_norm.weight": np.ones(8, np.float32)})
    with pytest.raises(ModelDamaged, match=r"exits\.safetensors is damaged .*mlp_norm.*; train its exits again"):
        load_lossy_target(tiny_model(MODEL), LAYER, heads=short, dtype="float32", context=64, slots=1)


def test_prompts_that_are_none_are_refused() -> None:
    assert prompt_hashes(changed(heads(), {PROMPTS: prompts_tensor([7, 2**63])})) == {7, 2**63}
    for odd in (np.zeros((3, 3), np.int32), np.zeros(3, np.int32), np.zeros((3, 2), np.float32)):
        with pytest.raises(ModelDamaged, match="no list of prompts"):
            prompt_hashes(changed(heads(), {PROMPTS: odd}))


# --- any damage


class Whole:
    """A target with a tokenizer, and whole files of heads for it: tensors and description as they lie in them, by kind."""

    def __init__(self, folder: Path) -> None:
        self.model = open_model(checkpoints.write_hugging_face(folder / "target", "qwen2", layers=3))
        self.transformer = Transformer(self.model.config, self.model.weights, torch.float32, 64)
        self.files: dict[str, tuple[dict[str, Any], str]] = {}
        path = folder / "heads.safetensors"
        for kind in KINDS:
            artifact = heads(kind, self.model)
            save_artifact(path, "exits", self.model, artifact.tensors, artifact.facts)
            with safe_open(path, "numpy") as file:
                self.files[kind] = load_file(path), file.metadata()["foredraft"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"))


JUNK = st.sampled_from(
    [None, True, -1, 0, 1, 2.5, 10**400, math.nan, math.inf, "", "x", [], [0.0], [None], {}, {"1": {}}, [[1.0]] * 12]
)


def broken_tensors(draw: st.DrawFn, tensors: dict[str, Any]) -> None:
    name = draw(st.sampled_from(sorted(tensors)))
    value = tensors.pop(name)
    way = draw(st.sampled_from(["lost", "renamed", "shorter", "turned", "flat", "retyped", "poisoned", "shuffled"]))
    if way == "lost" or not value.size:
        return
    if way == "renamed":
        name = draw(
            st.sampled_from(["exits.x", "exits.2.map.weight", "exits.0.norm.weight", "exits.1.attn.k.weight", "other"])
        )
    elif way == "shorter":
        value = value[: draw(st.integers(0, len(value) - 1))]
    elif way == "turned":
        value = np.ascontiguousarray(value.T) if value.ndim == 2 else value[None]
    elif way == "flat":
        value = value.reshape(-1)
    elif way == "retyped":
        with np.errstate(all="ignore"):
            value = value.astype(draw(st.sampled_from(["i1", "u1", "i4", "i8", "f2", "f4", "f8", "?"])))
    elif value.dtype.kind == "f":
        value = value.copy()
        value.flat[draw(st.integers(0, value.size - 1))] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 6e4]))
    else:
        value = value.copy()
        value.flat[draw(st.integers(0, value.size - 1))] = draw(st.sampled_from([-128, -1, 0, 101, 127]))
    tensors[name] = value


def broken_facts(draw: st.DrawFn, facts: Any) -> None:
    """Take away or replace something, anywhere."""
    while True:
        keys = sorted(facts) if isinstance(facts, dict) else list(range(len(facts)))
        key = draw(st.sampled_from(keys))
        inside = facts[key]
        if isinstance(inside, dict | list) and inside and draw(st.integers(0, 3)):
            facts = inside
        elif draw(st.booleans()):
            del facts[key]
            return
        else:
            facts[key] = deepcopy(draw(JUNK))
            return


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_a_damaged_file_is_refused_in_one_line_or_computes(
    data: st.DataObject, kind: str, whole: Whole, tmp_path: Path
) -> None:
    tensors, metadata = dict(whole.files[kind][0]), json.loads(whole.files[kind][1])
    for _ in range(data.draw(st.integers(1, 2))):
        if data.draw(st.booleans()) and tensors:
            broken_tensors(data.draw, tensors)
        elif metadata:
            broken_facts(data.draw, metadata)
    path = tmp_path / "damaged.safetensors"
    save_file(tensors, path, metadata={"foredraft": json.dumps(metadata)})
    try:
        artifact = load_artifact(path, "exits")
        artifact.check(whole.model)
        (head,) = trained_heads(artifact, whole.transformer, whole.model.weights, layers_of(artifact)).values()
    except ForedraftError as error:
        said = str(error)
        assert "damaged.safetensors" in said
        assert "\n" not in said
        assert "; " in said
        return
    with torch.inference_mode():
        view = head(torch.ones(2, whole.model.config.hidden))
    for drafted, params in ((101, SamplingParams()), (None, SamplingParams(temperature=1.0))):
        token, sure = view.foresee(0, drafted, params, 3, 1, 0.5)
        assert token == drafted or token in head.tokens
        assert 0.0 <= sure <= 1.0
