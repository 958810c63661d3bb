"""Fixtures for every test. Helpers that are no fixtures lie beside this file and are imported by name (``checkpoints``)."""

from __future__ import annotations

import os
from pathlib import Path

import checkpoints
import pytest
from hypothesis import settings

from foredraft_shared.errors import ModelNotFound
from foredraft_shared.models import Model, open_model

# What a planner learnt in one test, or in somebody's own use, is not to be met in another.
os.environ.setdefault("FOREDRAFT_EXPERIENCE", "none")

# How long an example takes says more about the machine than about the code.
settings.register_profile("foredraft", deadline=None)
settings.load_profile("foredraft")


@pytest.fixture(scope="session")
def smollm2() -> Model:
    """The real SmolLM2-135M of the catalogue, pulled into the ordinary cache by the first run."""
    try:
        return open_model("smollm2-135m")
    except ModelNotFound as error:
        pytest.skip(f"the real model is not here and cannot be fetched: {error}")


@pytest.fixture(scope="session", params=checkpoints.FAMILIES)
def tiny_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint in Hugging Face format, once for each family; not to be changed."""
    return checkpoints.write_hugging_face(tmp_path_factory.mktemp("tiny") / request.param, request.param)


@pytest.fixture(scope="session")
def tiny_gguf(tiny_folder: Path) -> Path:
    """The same as a GGUF file."""
    return checkpoints.write_gguf(tiny_folder, tiny_folder.with_suffix(".gguf"))
