"""The model store: from what a user calls a model to the model.

A *reference* is, in this order:

* a ``pathlib.Path``, or a string that ends with ``.gguf`` or begins with ``/``, ``./``, ``../`` or ``~``: a GGUF file or
  a folder in Hugging Face format on this machine;
* a name of :data:`foredraft_shared.models.catalogue.CATALOGUE`, such as ``smollm2-135m``;
* a folder that exists;
* ``organisation/name`` on the Hugging Face hub, with ``@revision`` and ``:QUANTISATION`` (of a GGUF) as wanted.

What is not on this machine yet is fetched, unless the caller or ``FOREDRAFT_OFFLINE`` forbids it.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from ..errors import ModelNotFound
from . import cache, hub
from .catalogue import CATALOGUE
from .opened import Model
from .progress import Progress, bar

__all__ = ["locate", "open_model"]


def open_model(reference: str | Path, *, offline: bool = False, progress: Progress | None = None) -> Model:
    """Find a model, fetch it if need be, and read its configuration; weights and tokenizer are read when asked for.

    Args:
        reference: see above.
        offline: fetch nothing; also set by ``FOREDRAFT_OFFLINE=1``.
        progress: told of downloads; by default a bar on standard error.

    Raises:
        ModelNotFound: no such model, or it cannot be fetched.
        ModelDamaged: its files are incomplete or not what they should be.
        ModelUnsupported: it is of a kind this version does not run.
        BackendMissing: an optional package is needed to fetch or read it.
    """
    return Model(locate(reference, offline=offline, progress=progress), str(reference))


def locate(reference: str | Path, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """The GGUF file or folder of a model, fetched if need be; arguments and errors as those of :func:`open_model`."""
    offline = offline or _truth(os.environ.get("FOREDRAFT_OFFLINE", ""))
    text = str(reference)
    if isinstance(reference, Path) or text.endswith(".gguf") or text.startswith(("/", "./", "../", "~")):
        return _local(Path(reference).expanduser())
    if entry := CATALOGUE.get(text.lower()):
        if path := cache.cached_path(entry):
            return path
        if offline:
            raise ModelNotFound(
                f"{text} is not in the cache, and offline is set; run foredraft models pull {text} online."
            )
        if progress is not None:
            return cache.fetch(entry, progress)
        with bar() as progress:
            return cache.fetch(entry, progress)
    if text and Path(text).exists():
        return _local(Path(text))
    if found := hub.HubReference.parse(text):
        return hub.fetch(found, offline=offline)
    near = difflib.get_close_matches(text.lower(), CATALOGUE, n=3, cutoff=0.4)
    raise ModelNotFound(
        f"No model is called {text!r}{f' (did you mean {near[0]}?)' if near else ''}. Give a known name "
        f"({', '.join(CATALOGUE)}), organisation/name of the Hugging Face hub, a .gguf file, or a folder with a checkpoint."
    )


def _local(path: Path) -> Path:
    """A folder as it is, or the GGUF file that is all it holds."""
    if not path.exists():
        raise ModelNotFound(f"{path}: no such file or folder; check the path.")
    if path.is_dir() and not (path / "config.json").is_file():
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return files[0]
        if files:
            raise ModelNotFound(f"{path} holds {len(files)} GGUF files; name the one you mean.")
    return path


def _truth(value: str) -> bool:
    return value.strip().lower() not in ("", "0", "false", "no", "off")
