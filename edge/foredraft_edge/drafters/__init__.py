"""Drafters: what guesses the next tokens on the device.

:func:`load_drafter` makes one from a *spec*, as written on the command line::

    smollm2-135m, a folder, a .gguf file      the model, in compiled kernels or by onnxruntime in int8
    compiled:MODEL                            the same, in compiled kernels or not at all
    onnx:MODEL, onnx-int4:MODEL, onnx-float32:MODEL   the same, in the precision named
    FILE.onnx                                 a draft that was exported before
    torch:MODEL                               the model, by PyTorch
    llama:FILE.gguf                           the model, by llama.cpp
    first:6, first:6:MODEL                    the first six layers of the target, or of MODEL
    draft:MODEL                               the small draft that was trained for MODEL and comes with foredraft
    auto                                      the draft trained for the target; else a small target itself, or ngram
    ngram                                     what followed the last time these words were said; no model

Further kinds register themselves under the entry point group ``foredraft.drafters`` (``docs/drafters.md``).
"""

from .base import Drafter, Proposal, follow
from .loading import load_drafter

__all__ = ["Drafter", "Proposal", "follow", "load_drafter"]
