"""The model store: from what a user calls a model to the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .opened import Model

__all__ = ["open_model"]


def open_model(
    reference: str | Path, *, offline: bool = False, progress: Callable[[str, int, int], None] | None = None
) -> Model:
    path = Path(reference)
    return Model(path)
