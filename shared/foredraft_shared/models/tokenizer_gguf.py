"""Reading a :class:`Tokenizer` from the vocabulary that a GGUF file carries.

A GGUF holds the tokens, their types, and either merges (``gpt2``, byte-level BPE) or scores (``llama``, SentencePiece BPE).
How a text is cut into words before merging it only names; the rules behind the names are written down here.
"""

from __future__ import annotations

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from ..errors import ModelDamaged, ModelUnsupported
from .gguf_file import GgufFile
from .tokenizer import Specials, Tokenizer

__all__ = ["tokenizer_from_gguf"]

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
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
"""Token types, as ``tokenizer.ggml.token_type`` numbers them (6 are single bytes)."""
_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>")
"""Control tokens that end a text whatever the metadata says, which names one of them only; as llama.cpp has it."""


def tokenizer_from_gguf(file: GgufFile) -> Tokenizer:
    """Build the tokenizer that the file's metadata describe.

    Raises:
        ModelDamaged: the vocabulary is missing or inconsistent.
        ModelUnsupported: it is of a kind that this version cannot encode with.
    """
    try:
        return _build(file)
    except (ModelUnsupported, ModelDamaged):
        raise
    except Exception as error:  # the library raises nothing narrower, and metadata may be of any type
        raise file.damaged(f"tokenizer: {' '.join(str(error).split())}") from error


def _build(file: GgufFile) -> Tokenizer:
    kind = file.get("tokenizer.ggml.model")
    pieces = file.get("tokenizer.ggml.tokens")
    if not isinstance(pieces, list) or not pieces:
        raise file.damaged("no tokenizer.ggml.tokens")
    types = file.get("tokenizer.ggml.token_type") or [_NORMAL] * len(pieces)
    if len(types) != len(pieces):
        raise file.damaged("token types and tokens differ in number")
    build = {"gpt2": _byte_level, "llama": _sentence_piece}.get(str(kind))
    if build is None:
        raise ModelUnsupported(
            f"{file.path}: tokenizer model {kind!r} is not supported, only gpt2 and llama; "
            "take the model in Hugging Face format, with its tokenizer.json."
        )
    backend = build(file, pieces, types)
    backend.add_tokens(
        [
            AddedToken(piece, special=type_ != _USER_DEFINED, normalized=False)
            for piece, type_ in zip(pieces, types, strict=True)
            if type_ in (_CONTROL, _USER_DEFINED, _UNKNOWN)
        ]
    )
    # llama.cpp adds it by default to SentencePiece vocabularies and to Llama 3's.
    adds_bos = file.get("tokenizer.ggml.add_bos_token", kind == "llama" or _pre(file) == "llama-bpe")
    control = {piece: id for id, (piece, type_) in enumerate(zip(pieces, types, strict=True)) if type_ == _CONTROL}
    named = [file.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    ends = [*named, *(control.get(piece) for piece in _ENDS)]
    specials = Specials(
        bos=file.get("tokenizer.ggml.bos_token_id"),
        eos=tuple(dict.fromkeys(id for id in ends if id is not None)),
        add_bos=bool(adds_bos),
    )
    template = file.get("tokenizer.chat_template")
    return Tokenizer(backend, specials, template if isinstance(template, str) else None)


def _pre(file: GgufFile) -> str:
    name = str(file.get("tokenizer.ggml.pre", "default"))
    return _SAME_AS.get(name, name)


def _byte_level(file: GgufFile, pieces: list[str], types: list[int]) -> Backend:
    pre = _pre(file)
    if pre not in _SPLITS:
        raise ModelUnsupported(
            f"{file.path}: pre-tokenizer {pre!r} is not supported, only {', '.join(_SPLITS)}; "
            "take the model in Hugging Face format, with its tokenizer.json."
        )
    merges = file.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise file.damaged("no tokenizer.ggml.merges")
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    backend = Backend(models.BPE(vocab=_ids(pieces, types), merges=pairs, ignore_merges=pre in _WHOLE_WORDS))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in _SPLITS[pre]),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    if file.get("tokenizer.ggml.pre") == "qwen2":  # Qwen's own, not DeepSeek's and others' of the same split
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentence_piece(file: GgufFile, pieces: list[str], types: list[int]) -> Backend:
    """As Llama 2's own ``tokenizer.json``: one BPE over the whole text, spaces written ``▁``, bytes where nothing fits."""
    scores = file.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(pieces):
        raise file.damaged("scores and tokens differ in number")
    unknown = file.get("tokenizer.ggml.unknown_token_id", 0)
    backend = Backend(
        models.BPE(
            vocab=_ids(pieces, types),
            merges=_merges_of_scores(pieces, types, scores),
            unk_token=pieces[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", "▁")
    prefixed = file.get("tokenizer.ggml.add_space_prefix", True)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefixed else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
    return backend


def _merges_of_scores(pieces: list[str], types: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """The merges behind SentencePiece's scores: every way to make a piece out of two, best pieces first.

    Source: ``generate_merges`` of transformers, which made the ``tokenizer.json`` of such models.
    """
    vocabulary = {piece: id for id, (piece, type_) in enumerate(zip(pieces, types, strict=True)) if type_ == _NORMAL}
    merges = []
    for piece, id in vocabulary.items():
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        known = [(left, right) for left, right in halves if left in vocabulary and right in vocabulary]
        known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges += [(scores[id], left, right) for left, right in known]
    merges.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return [(left, right) for _, left, right in merges]


def _ids(pieces: list[str], types: list[int]) -> dict[str, int]:
    """Ids by token, without those that only pad the vocabulary."""
    return {piece: id for id, (piece, type_) in enumerate(zip(pieces, types, strict=True)) if type_ != _UNUSED}
