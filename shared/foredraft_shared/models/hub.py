"""Models of the Hugging Face hub, by the ``huggingface_hub`` package.

It keeps its own cache, resumes downloads, shows its own progress bars, and obeys ``HF_HOME``, ``HF_TOKEN``, ``HF_ENDPOINT``
and ``HF_HUB_OFFLINE``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BackendMissing, ModelNotFound, ModelUnsupported

__all__ = ["HubReference", "cached_models", "fetch"]

_REFERENCE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[\w.-]+))?")
_CHECKPOINT = ("config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_PREFERRED = ("Q4_K_M", "Q4_0", "Q8_0", "BF16", "F16")
"""What is taken of a repository of GGUF files when the reference does not say."""


@dataclass(frozen=True, slots=True)
class HubReference:
    """``organisation/name``, perhaps with ``@revision``, perhaps with ``:QUANTISATION`` for one of its GGUF files."""

    repository: str
    revision: str | None = None
    quantisation: str | None = None

    @classmethod
    def parse(cls, reference: str) -> HubReference | None:
        """``None`` if the reference does not look like one."""
        match = _REFERENCE.fullmatch(reference)
        return cls(match["repository"], match["revision"], match["file"]) if match else None


def fetch(reference: HubReference, *, offline: bool) -> Path:
    """The folder of a checkpoint, or the GGUF file, in the hub's cache; downloaded if need be and allowed.

    Raises:
        ModelNotFound: no such repository, revision or file, or it cannot be reached.
        ModelUnsupported: the repository holds no model in a format that is read here.
        BackendMissing: ``huggingface_hub`` is not installed.
    """
    hub = _hub()
    if reference.quantisation is None:
        folder = _snapshot(hub, reference, (*_CHECKPOINT, *_TOKENIZER), offline)
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return folder
    name = _choose(_gguf_names(hub, reference, offline), reference)
    return _snapshot(hub, reference, (name,), offline) / name


def cached_models() -> list[tuple[str, int, Path]]:
    """Repository, bytes and path of the models in the hub's cache; empty without ``huggingface_hub``."""
    try:
        repositories = _cached_repositories()
    except BackendMissing:
        return []
    return sorted((repo.repo_id, repo.size_on_disk, Path(repo.repo_path)) for repo in repositories)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise BackendMissing(
            "Models of the Hugging Face hub need the package huggingface_hub: pip install 'foredraft[models]'."
        ) from error
    return huggingface_hub


def _cached_repositories() -> list[Any]:
    hub = _hub()
    try:
        return [repo for repo in hub.scan_cache_dir().repos if repo.repo_type == "model"]
    except hub.errors.CacheNotFound:
        return []


def _snapshot(hub: Any, reference: HubReference, patterns: tuple[str, ...], offline: bool) -> Path:
    try:
        folder = hub.snapshot_download(
            reference.repository,
            revision=reference.revision,
            allow_patterns=list(patterns),
            ignore_patterns=None if len(patterns) == 1 else ["*/*"],  # copies in other formats lie in subfolders
            local_files_only=offline,
        )
    except Exception as error:  # the hub raises its own errors, its HTTP library's and the system's
        raise _unavailable(hub, reference, error, offline) from error
    return Path(folder)


def _gguf_names(hub: Any, reference: HubReference, offline: bool) -> list[str]:
    """Paths of the GGUF files in a repository; offline, of those in the cache."""
    if offline or hub.constants.HF_HUB_OFFLINE:
        names: Iterable[str] = (
            str(file.file_path.relative_to(revision.snapshot_path))
            for repository in _cached_repositories()
            if repository.repo_id == reference.repository
            for revision in repository.revisions
            if reference.revision in (None, revision.commit_hash, *revision.refs)
            for file in revision.files
        )
    else:
        try:
            names = hub.HfApi().list_repo_files(reference.repository, revision=reference.revision)
        except Exception as error:  # as above
            raise _unavailable(hub, reference, error, offline) from error
    return sorted({name for name in names if name.endswith(".gguf")})


def _choose(names: list[str], reference: HubReference) -> str:
    """The one file that is meant."""
    whole = [name for name in names if "mmproj" not in name and not re.search(r"-\d{5}-of-\d{5}", name)]
    if not whole:
        held = "only split GGUF files" if names else "neither safetensors with a config.json nor GGUF files"
        raise ModelUnsupported(f"{reference.repository} holds {held}; take another repository of the model.")
    for wanted in [reference.quantisation] if reference.quantisation else _PREFERRED:
        pattern = re.compile(rf"(^|[-._/]){re.escape(wanted)}([-._]|$)", re.IGNORECASE)
        matching = [name for name in whole if pattern.search(name)]
        if matching:
            return min(matching, key=len)
    if len(whole) == 1 and not reference.quantisation:
        return whole[0]
    raise ModelNotFound(
        f"{reference.repository} holds no file for {reference.quantisation or 'a usual quantisation'}; "
        f"name one after a colon, it has {', '.join(whole)}."
    )


def _unavailable(hub: Any, reference: HubReference, error: Exception, offline: bool) -> ModelNotFound:
    errors = hub.errors
    name = reference.repository
    if isinstance(error, errors.GatedRepoError):
        return ModelNotFound(f"{name} is gated: accept its terms on the hub, then log in (hf auth login, or HF_TOKEN).")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFound(f"The hub has no model {name}, or it is private; check the name, or log in (HF_TOKEN).")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFound(f"{name} has no revision {reference.revision}; check it on the hub.")
    if offline or hub.constants.HF_HUB_OFFLINE:
        return ModelNotFound(f"{name} is not in the hub's cache, and offline is set; pull it while online.")
    reason = str(error).strip().splitlines()
    return ModelNotFound(
        f"{name} could not be fetched from the hub ({reason[0] if reason else type(error).__name__}); "
        "check the name and the network."
    )
