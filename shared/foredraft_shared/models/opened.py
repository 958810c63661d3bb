"""A model that has been found on disk: its configuration now, its weights and its tokenizer when asked for."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from ..errors import ModelNotFound
from .config import ModelConfig
from .config_files import config_from_gguf, config_from_hugging_face
from .gguf_file import GgufFile
from .tokenizer import Tokenizer
from .tokenizer_folder import tokenizer_from_folder
from .tokenizer_gguf import tokenizer_from_gguf
from .weights import Weights

__all__ = ["Model"]


class Model:
    """A model on disk, a GGUF file or a Hugging Face folder.

    Raises:
        ModelNotFound: nothing of the kind is at ``path``.
        ModelDamaged: the files are incomplete.
        ModelUnsupported: it is of a kind this version does not run.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        """The GGUF file, or the folder with ``config.json``."""
        self.name = name or path.stem
        """What the user called it, for messages."""
        self._gguf: GgufFile | None = None
        if path.is_dir():
            self.config: ModelConfig = config_from_hugging_face(path)
        elif path.is_file():
            self._gguf = GgufFile(path)
            self.config = config_from_gguf(self._gguf)
        else:
            raise ModelNotFound(f"{path}: no such file or folder; check the path.")

    def __repr__(self) -> str:
        return f"<Model {self.name}: {self.path}>"

    @cached_property
    def weights(self) -> Weights:
        """The weights, read tensor by tensor when looked up; shapes are checked at once."""
        if self._gguf is not None:
            return Weights.from_gguf(self._gguf, self.config)
        return Weights.from_safetensors(self.path, self.config)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, read at the first use."""
        if self._gguf is not None:
            return tokenizer_from_gguf(self._gguf)
        return tokenizer_from_folder(self.path, self.config)
