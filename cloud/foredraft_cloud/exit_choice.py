"""Which exits a target gets, from what an operator says of them."""

from __future__ import annotations

from pathlib import Path

from foredraft_shared.errors import UsageError
from foredraft_shared.models import Model
from foredraft_shared.models.artifacts import Artifact, load_artifact, shipped

__all__ = ["exit_layers", "heads_for"]


def exit_layers(text: str | None) -> tuple[int, ...] | None:
    """``None``: wherever there is a trained head; else the named layers, ascending.

    Raises:
        UsageError: these are no layers.
    """
    if text is None:
        return None
    if text.strip().lower() in ("", "none"):
        return ()
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise UsageError(f"exits are {text!r}; give layer numbers with commas between, such as 10,20.") from None


def heads_for(model: Model, path: Path | None) -> Artifact | None:
    """The exit heads in ``path``, or those that come with foredraft for ``model``, if there are any.

    Raises:
        ForedraftError: what :func:`~foredraft_shared.models.artifacts.load_artifact` and its check raise.
    """
    path = path or shipped(model, "exits")
    if path is None:
        return None
    artifact = load_artifact(path, "exits")
    artifact.check(model)
    return artifact
