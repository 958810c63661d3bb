"""Models: finding them, and reading their configuration, weights and tokenizers."""

from .config import ModelConfig, Rope
from .opened import Model
from .store import open_model
from .tokenizer import Detokenizer, Tokenizer
from .weights import Weights

__all__ = ["Detokenizer", "Model", "ModelConfig", "Rope", "Tokenizer", "Weights", "open_model"]
