"""Text to token ids and back, the same whether a model comes from Hugging Face or from a GGUF file.

Encoding is the ``tokenizers`` library's. Decoding is ours, because a stream must not print half a character: every
token stands for bytes (:meth:`Tokenizer.token_bytes`), a text is the bytes of its tokens one after the other, and UTF-8
is decoded only as far as it is complete. The same bytes make the fingerprint by which two models recognise that they
speak the same token ids.
"""

from __future__ import annotations

import codecs
import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer as Backend

from ..errors import ModelUnsupported
from ..messages import TokenId
from .chat import CHATML, PLAIN, ChatTemplate

__all__ = ["Detokenizer", "Specials", "Tokenizer"]


@dataclass(frozen=True, slots=True)
class Specials:
    """What a checkpoint says about its special tokens beside the vocabulary itself."""

    bos: TokenId | None = None
    eos: tuple[TokenId, ...] = ()
    """Any of these ends a text."""
    add_bos: bool = False
    """Every text begins with ``bos``."""


class Tokenizer:
    """The tokenizer of a model; made by the functions of :mod:`~foredraft_shared.models.tokenizer_folder` and
    :mod:`~foredraft_shared.models.tokenizer_gguf`.

    Raises:
        ModelUnsupported: it decodes in a way that cannot be done token by token.
    """

    def __init__(self, backend: Backend, specials: Specials, chat_template: str | None = None) -> None:
        backend.no_truncation()  # a tokenizer.json may carry the habits of its training
        backend.no_padding()
        self._backend = backend
        self._specials = specials
        self.chat_template = chat_template
        """The model's own template (Jinja), if it has one."""
        self._style = _Style.of(backend)
        added = backend.get_added_tokens_decoder()
        self._added = frozenset(added)
        self._special = frozenset(token for token, entry in added.items() if entry.special)

    # --- text to ids and back -----------------------------------------------------------------------------------------

    def encode(self, text: str, *, begin: bool = True) -> tuple[TokenId, ...]:
        """The ids of a text. Special tokens written out in it (as chat templates do) become their own ids.

        Args:
            text: any text; lone surrogates are replaced.
            begin: put the model's begin-of-text token first, if it wants one and the text does not bring it.

        Bytes that a vocabulary has no token for are left out, as every runtime does (SmolLM2 lacks a few rare ones).
        """
        ids = self._backend.encode(text.encode("utf-8", "replace").decode("utf-8"), add_special_tokens=False).ids
        bos = self._specials.bos
        if begin and self._specials.add_bos and bos is not None and ids[:1] != [bos]:
            return (bos, *ids)
        return tuple(ids)

    def decode(self, ids: Iterable[TokenId], *, special: bool = False) -> str:
        """The text of some ids; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: any of the model's ids; those that stand for no text give none.
            special: also write out special tokens, such as ``<|im_end|>``.
        """
        detokenizer = Detokenizer(self, special=special)
        return "".join(map(detokenizer.push, ids)) + detokenizer.flush()

    def token_bytes(self, token: TokenId) -> bytes:
        """What a token adds to a text, in UTF-8; empty for ids that stand for nothing (padding of the vocabulary)."""
        piece = self._backend.id_to_token(token) if 0 <= token < 2**32 else None
        if piece is None:
            return b""
        return self._style.bytes_of(piece, added=token in self._added)

    def is_special(self, token: TokenId) -> bool:
        """Whether a token steers the model rather than standing for text."""
        return token in self._special

    # --- facts --------------------------------------------------------------------------------------------------------

    @property
    def bos(self) -> TokenId | None:
        """Begin of text."""
        return self._specials.bos

    @property
    def adds_bos(self) -> bool:
        """Whether :meth:`encode` puts :attr:`bos` first."""
        return self._specials.add_bos and self._specials.bos is not None

    @property
    def stop_tokens(self) -> tuple[TokenId, ...]:
        """A text is complete after any of these."""
        return self._specials.eos

    @property
    def vocabulary(self) -> int:
        """One more than the highest id that stands for something; a model's embedding may have more rows."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def fingerprint(self) -> str:
        """Names what the ids mean: 32 hexadecimal digits, equal for tokenizers that give and take the same ids.

        Hashed are the bytes of every id, which ids are added tokens, and the merges in order; not the padding of the
        vocabulary, nor which file they came from. Whether an added token counts as *special* is left out: llama.cpp's
        converter and Hugging Face disagree on it for one and the same model.
        """
        hashed = [b"foredraft tokenizer 1\n"]
        for piece, token in sorted(self._backend.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1]):
            added = token in self._added
            meaning = self._style.bytes_of(piece, added=added)
            hashed.append(b"%d %d %d " % (token, added, len(meaning)) + meaning)
        if self._style.byte_level:  # SentencePiece's merges follow from its scores, and are derived in several ways
            hashed += (f"{left} {right}\n".encode() for left, right in self._merges())
        return hashlib.sha256(b"".join(hashed)).hexdigest()[:32]

    def _merges(self) -> Iterable[tuple[str, str]]:
        merges = json.loads(self._backend.model.__getstate__()).get("merges", ())
        for merge in merges:
            left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
            yield left, right

    # --- chat ---------------------------------------------------------------------------------------------------------

    def chat(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any) -> str:
        """A conversation as the text the model continues; :meth:`encode` it next.

        Args:
            messages: ``{"role": "system" | "user" | "assistant", "content": text}`` in order.
            add_generation_prompt: end with the opening of the assistant's answer.
            variables: whatever else the model's template knows, such as ``enable_thinking``.

        Raises:
            UsageError: the template refuses the messages.
            ModelDamaged: the model's template is no valid Jinja.
        """
        return self._compiled_template.render(messages, add_generation_prompt, **variables)

    @cached_property
    def _compiled_template(self) -> ChatTemplate:
        source = self.chat_template
        if source is None:
            chatml = all(self._backend.token_to_id(token) is not None for token in ("<|im_start|>", "<|im_end|>"))
            source = CHATML if chatml else PLAIN
        first = {"bos_token": self.bos, "eos_token": next(iter(self.stop_tokens), None)}
        tokens = {name: self._backend.id_to_token(token) or "" for name, token in first.items() if token is not None}
        return ChatTemplate(source, {"bos_token": "", "eos_token": "", **tokens})


class Detokenizer:
    """Turns tokens into text as they come.

    ``push`` gives what has become certain, ``flush`` the rest; together they are ``Tokenizer.decode`` of all tokens.
    A character spread over several tokens comes whole, with the last of them.
    """

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False, continues: bool = False) -> None:
        """
        Args:
            tokenizer: the model's.
            special: also write out special tokens.
            continues: the tokens follow a text rather than begin one, so that SentencePiece models keep the space
                before their first word.
        """
        self._tokenizer = tokenizer
        self._write_special = special
        self._strip_space = tokenizer._style.strip_first_space and not continues
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: TokenId) -> str:
        """The text that is certain now and was not before; may be empty."""
        if not self._write_special and self._tokenizer.is_special(token):
            return ""
        added = self._tokenizer.token_bytes(token)
        if self._strip_space and added:
            self._strip_space = False
            added = added.removeprefix(b" ")
        return self._decoder.decode(added)

    def copy(self) -> Detokenizer:
        """Another one that has seen the same tokens."""
        twin = copy.copy(self)
        twin._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        twin._decoder.setstate(self._decoder.getstate())
        return twin

    def flush(self) -> str:
        """The text of an incomplete character at the end (U+FFFD), if there is one. The next push begins anew."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


# --- what a token stands for -----------------------------------------------------------------------------------------


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: one printable character for every byte (source: its ``encoder.py``, ``bytes_to_unicode``)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


@dataclass(frozen=True, slots=True)
class _Style:
    """How a tokenizer writes bytes as tokens: in GPT-2's alphabet, or as SentencePiece does."""

    byte_level: bool
    byte_fallback: bool = False
    """``<0x0A>`` stands for a byte."""
    strip_first_space: bool = False

    @classmethod
    def of(cls, backend: Backend) -> _Style:
        state: dict[str, Any] = {"type": "nothing"}
        if backend.decoder is not None:
            state = json.loads(backend.decoder.__getstate__())
        steps: list[dict[str, Any]] = state["decoders"] if state["type"] == "Sequence" else [state]
        kinds = {step["type"] for step in steps}
        if kinds == {"ByteLevel"}:
            return cls(byte_level=True)
        if kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"} and kinds & {"Replace", "Metaspace"}:
            replaced = [step for step in steps if step["type"] == "Replace"]
            stripped = [step for step in steps if step["type"] == "Strip"]
            usual = all(step["pattern"] == {"String": "▁"} and step["content"] == " " for step in replaced)
            usual = usual and all((step["content"], step["start"], step["stop"]) == (" ", 1, 0) for step in stripped)
            prepends = any(s["type"] == "Metaspace" and s.get("prepend_scheme") != "never" for s in steps)
            if usual:
                return cls(False, "ByteFallback" in kinds, bool(stripped) or prepends)
        raise ModelUnsupported(
            f"The model's tokenizer decodes by {', '.join(sorted(kinds))}, which is not supported; "
            "take a model with a byte-level or SentencePiece tokenizer."
        )

    def bytes_of(self, piece: str, *, added: bool) -> bytes:
        if self.byte_level:
            try:
                return bytes(map(_BYTE_OF.__getitem__, piece))
            except KeyError:  # an added token, written as plain text
                return piece.encode()
        if self.byte_fallback and not added and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            try:
                return bytes([int(piece[3:5], 16)])
            except ValueError:
                pass
        return piece.replace("▁", " ").encode()
