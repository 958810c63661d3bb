"""Reading a :class:`Tokenizer` from a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from ..errors import ModelDamaged, ModelNotFound
from .config import ModelConfig
from .config_files import read_json
from .tokenizer import Specials, Tokenizer

__all__ = ["tokenizer_from_folder"]


def tokenizer_from_folder(folder: Path, config: ModelConfig) -> Tokenizer:
    """From ``tokenizer.json``, with ``tokenizer_config.json`` and ``chat_template.jinja`` where there are such.

    Raises:
        ModelNotFound: there is no ``tokenizer.json``.
        ModelDamaged: it cannot be read.
        ModelUnsupported: it is of a kind that cannot be decoded token by token.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelNotFound(f"{folder} holds no tokenizer.json; fetch the model's fast tokenizer into it.")
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ModelDamaged(f"{path} cannot be read ({' '.join(str(error).split())}); fetch the model again.") from error
    settings_path = folder / "tokenizer_config.json"
    settings = read_json(settings_path) if settings_path.is_file() else {}
    bos = _token_id(backend, settings.get("bos_token"))
    eos = _token_id(backend, settings.get("eos_token"))
    begins = backend.encode("").ids[:1]  # what the file's own post-processor puts first
    bos = bos if bos is not None else config.bos
    adds_bos = settings.get("add_bos_token")
    specials = Specials(
        bos=bos,
        eos=_each_once(eos, *config.eos),
        add_bos=bos is not None and (begins == [bos] if adds_bos is None else bool(adds_bos)),
    )
    return Tokenizer(backend, specials, _folder_template(folder, settings))


def _token_id(backend: Backend, value: Any) -> int | None:
    """The id of a token named in ``tokenizer_config.json``, as text or as an object with its content."""
    content = value.get("content") if isinstance(value, dict) else value
    found: int | None = backend.token_to_id(content) if isinstance(content, str) else None
    return found


def _folder_template(folder: Path, settings: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _each_once(*ids: int | None) -> tuple[int, ...]:
    """The ids that are there, each once, in order."""
    return tuple(dict.fromkeys(token for token in ids if token is not None))
