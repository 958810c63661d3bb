"""Reading a :class:`Tokenizer` from a Hugging Face folder or from GGUF metadata."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from ..errors import ModelDamaged, ModelNotFound, ModelUnsupported
from .config import ModelConfig
from .config_files import read_json
from .tokenizer import Specials, Tokenizer

if TYPE_CHECKING:
    from .gguf_file import GgufFile

__all__ = ["tokenizer_from_folder", "tokenizer_from_gguf"]


# --- Hugging Face ----------------------------------------------------------------------------------------------------


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
    specials = Specials(
        bos=bos,
        eos=_each_once(eos, *config.eos),
        add_bos=bool(settings.get("add_bos_token", begins == [bos])) if bos is not None else False,
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


# --- GGUF ------------------------------------------------------------------------------------------------------------

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "llama-bpe": (_LLAMA3,),
    "qwen2": (_QWEN2,),
    "tekken": (_TEKKEN,),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
}
"""How a text is cut before merging, by llama.cpp's names. Source: ``llama-vocab.cpp``."""
_SAME_AS = {
    "gpt2": "gpt-2",
    "phi-2": "gpt-2",
    "olmo": "gpt-2",
    "starcoder": "smollm",
    "refact": "smollm",
    "command-r": "smollm",
    "codeshell": "smollm",
    "exaone": "smollm",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "falcon3": "llama-bpe",
    "pixtral": "llama-bpe",
    "smaug-bpe": "llama-bpe",
    "dbrx": "llama-bpe",
    "deepseek-r1-qwen": "qwen2",
    "megrez": "qwen2",
}
_WHOLE_WORDS = ("llama-bpe", "tekken")
"""Vocabularies whose words are taken whole when they are in it, whatever the merges say."""
_CONTROL, _USER_DEFINED, _UNUSED, _UNKNOWN, _BYTE = 3, 4, 5, 2, 6
"""Token types, as ``tokenizer.ggml.token_type`` numbers them."""


def tokenizer_from_gguf(file: GgufFile) -> Tokenizer:
    """From the vocabulary that a GGUF file carries.

    Raises:
        ModelDamaged: the vocabulary is missing or inconsistent.
        ModelUnsupported: it is of a kind that this version cannot encode with.
    """
    kind = file.get("tokenizer.ggml.model")
    pieces = file.get("tokenizer.ggml.tokens")
    if not isinstance(pieces, list) or not pieces:
        raise file.damaged("no tokenizer.ggml.tokens")
    types = file.get("tokenizer.ggml.token_type") or [1] * len(pieces)
    if len(types) != len(pieces):
        raise file.damaged("token types and tokens differ in number")
    if kind == "gpt2":
        backend = _byte_level(file, pieces, types)
    else:
        raise ModelUnsupported(f"{file.path}: tokenizer model {kind!r} is not supported, only gpt2.")
    backend.add_tokens(
        [
            AddedToken(piece, special=type_ != _USER_DEFINED, normalized=False)
            for piece, type_ in zip(pieces, types, strict=True)
            if type_ in (_CONTROL, _USER_DEFINED)
        ]
    )
    bos = file.get("tokenizer.ggml.bos_token_id")
    specials = Specials(
        bos=bos,
        eos=_gguf_stops(file, backend),
        # llama.cpp adds it by default to SentencePiece vocabularies and to Llama 3's.
        add_bos=bool(file.get("tokenizer.ggml.add_bos_token", _SAME_AS.get(_pre(file), _pre(file)) == "llama-bpe")),
    )
    template = file.get("tokenizer.chat_template")
    return Tokenizer(backend, specials, template if isinstance(template, str) else None)


def _pre(file: GgufFile) -> str:
    return str(file.get("tokenizer.ggml.pre", "default"))


def _byte_level(file: GgufFile, pieces: list[str], types: list[int]) -> Backend:
    pre = _SAME_AS.get(_pre(file), _pre(file))
    if pre not in _SPLITS:
        raise ModelUnsupported(
            f"{file.path}: pre-tokenizer {pre!r} is not supported, only {', '.join(_SPLITS)}; "
            "take the model in Hugging Face format, with its tokenizer.json."
        )
    merges = file.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise file.damaged("no tokenizer.ggml.merges")
    vocabulary = {piece: id for id, (piece, type_) in enumerate(zip(pieces, types, strict=True)) if type_ != _UNUSED}
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    try:
        backend = Backend(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre in _WHOLE_WORDS))
    except Exception as error:  # the library raises nothing narrower
        raise file.damaged(f"merges: {error}") from error
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in _SPLITS[pre]),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend


def _gguf_stops(file: GgufFile, backend: Backend) -> tuple[int, ...]:
    """The end-of-text and end-of-turn tokens, and what llama.cpp takes for such by its text."""
    named = (file.get("tokenizer.ggml.eos_token_id"), file.get("tokenizer.ggml.eot_token_id"))
    return _each_once(*named)


def _each_once(*ids: int | None) -> tuple[int, ...]:
    return tuple(dict.fromkeys(token for token in ids if token is not None))
