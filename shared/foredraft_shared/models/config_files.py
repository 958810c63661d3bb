"""Reading a :class:`ModelConfig` from a Hugging Face ``config.json`` or from GGUF metadata.

Both formats say the same things in different words. What this version would run wrongly (another activation, other
attention, weights quantised by other schemes) is refused by name rather than ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelDamaged, ModelNotFound, ModelUnsupported
from .config import FAMILIES, ModelConfig, Rope

if TYPE_CHECKING:
    from .gguf_file import GgufFile

__all__ = ["config_from_gguf", "config_from_hugging_face", "read_json"]

_GGUF_FAMILIES = ("llama", "qwen2", "qwen3")
"""GGUF writes Mistral as ``llama``."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint.

    Raises:
        ModelNotFound: there is no such file.
        ModelDamaged: it is no JSON object.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path.parent} holds no {path.name}; give a folder with a whole checkpoint.") from error
    except (ValueError, OSError) as error:
        raise ModelDamaged(f"{path} cannot be read ({error}); fetch the model again.") from error
    if not isinstance(value, dict):
        raise ModelDamaged(f"{path} is not a JSON object; fetch the model again.")
    return value


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def config_from_hugging_face(folder: Path) -> ModelConfig:
    """From ``config.json`` as transformers 4 or 5 writes it, and ``generation_config.json`` for the stop tokens.

    Raises:
        ModelNotFound: there is no ``config.json``.
        ModelDamaged: it lacks a needed key.
        ModelUnsupported: it asks for something this version does not run.
    """
    path = folder / "config.json"
    values = read_json(path)
    family = values.get("model_type")
    if family not in FAMILIES:
        raise ModelUnsupported(
            f"{path}: model type {family!r} is not one of {', '.join(FAMILIES)}; take a model of these."
        )
    _refuse(values, path)
    generation_path = folder / "generation_config.json"
    generation = read_json(generation_path) if generation_path.is_file() else {}
    try:
        layers, hidden, heads = (
            int(values[key]) for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")
        )
        context = int(values["max_position_embeddings"])
        head_dim = values.get("head_dim") or (128 if family == "qwen3" else hidden // heads)
        config = ModelConfig(
            family=family,
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=int(values.get("num_key_value_heads") or heads),
            head_dim=int(head_dim),
            feed_forward=int(values["intermediate_size"]),
            vocabulary=int(values["vocab_size"]),
            context=context,
            rope=_rope(values, context, path),
            norm_eps=float(values.get("rms_norm_eps", 1e-6)),
            tied=bool(values.get("tie_word_embeddings", False)),
            attention_bias=family == "qwen2" or bool(values.get("attention_bias", False)),
            qk_norm=family == "qwen3",
            sliding_window=_window(values, layers, context, path),
            bos=_first(values.get("bos_token_id")),
            eos=_merged(generation.get("eos_token_id"), values.get("eos_token_id")),
        )
    except KeyError as error:
        raise ModelDamaged(f"{path} lacks {error}; fetch the model again.") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelDamaged(f"{path} holds a value that makes no sense ({error}); fetch the model again.") from error
    return _sane(config, path)


def _refuse(values: Mapping[str, Any], path: Path) -> None:
    if values.get("quantization_config"):
        method = values["quantization_config"].get("quant_method", "unknown")
        raise ModelUnsupported(
            f"{path}: weights quantised by {method} are not read; take the unquantised checkpoint or a GGUF file."
        )
    if values.get("hidden_act", "silu") not in ("silu", "swish"):
        raise ModelUnsupported(f"{path}: activation {values['hidden_act']!r} is not supported, only silu.")
    if values.get("mlp_bias"):
        raise ModelUnsupported(f"{path}: biases in the feed-forward part (mlp_bias) are not supported.")


def _rope(values: Mapping[str, Any], context: int, path: Path) -> Rope:
    """transformers 4 has ``rope_theta`` and ``rope_scaling``, transformers 5 puts both into ``rope_parameters``."""
    stretch = dict(values.get("rope_scaling") or {}) | dict(values.get("rope_parameters") or {})
    theta = float(stretch.get("rope_theta") or values.get("rope_theta") or 10000.0)
    kind = stretch.get("rope_type", stretch.get("type", "default"))
    partial = stretch.get("partial_rotary_factor", values.get("partial_rotary_factor", 1.0))
    if partial not in (None, 1, 1.0):
        raise ModelUnsupported(
            f"{path}: rotary embedding on a part of each head (partial_rotary_factor) is not supported."
        )
    if kind == "default":
        return Rope(theta)
    if kind not in ("linear", "llama3", "yarn"):
        raise ModelUnsupported(f"{path}: rope scaling {kind!r} is not supported, only linear, llama3 and yarn.")
    if kind == "linear":
        return Rope(theta, kind, float(stretch["factor"]))
    if kind == "llama3":
        return Rope(
            theta,
            kind,
            factor=float(stretch["factor"]),
            low_frequency_factor=float(stretch["low_freq_factor"]),
            high_frequency_factor=float(stretch["high_freq_factor"]),
            original_context=int(stretch["original_max_position_embeddings"]),
        )
    if stretch.get("truncate") is False:
        raise ModelUnsupported(f"{path}: yarn without truncation is not supported.")
    original = int(
        stretch.get("original_max_position_embeddings") or values.get("original_max_position_embeddings") or context
    )
    factor = float(stretch.get("factor") or context / original)
    return Rope(
        theta,
        kind,
        factor=factor,
        original_context=original,
        beta_fast=float(stretch.get("beta_fast") or 32.0),
        beta_slow=float(stretch.get("beta_slow") or 1.0),
        attention_factor=_attention_factor(stretch, factor),
    )


def _attention_factor(stretch: Mapping[str, Any], factor: float) -> float | None:
    """transformers' rule: given, or from DeepSeek's two ``mscale`` values, or left to the default."""
    given = stretch.get("attention_factor")
    if given is not None:
        return float(given)
    above, below = stretch.get("mscale"), stretch.get("mscale_all_dim")
    if above and below and factor > 1:
        return float((0.1 * above * math.log(factor) + 1.0) / (0.1 * below * math.log(factor) + 1.0))
    return None


def _window(values: Mapping[str, Any], layers: int, context: int, path: Path) -> int | None:
    """The window every layer has, or ``None``; layers that differ are refused.

    Mistral has one unless it says null; Qwen names one but does not use it unless ``use_sliding_window`` says so, and
    then only from layer ``max_window_layers`` up (or where ``layer_types`` says so).
    """
    family = values["model_type"]
    if family == "llama" or (family != "mistral" and not values.get("use_sliding_window", False)):
        return None
    window = values.get("sliding_window", 4096)
    if window is None or int(window) >= context:  # a window that holds the whole context hides nothing
        return None
    if family == "mistral":
        sliding = layers
    elif values.get("layer_types"):
        sliding = sum(kind == "sliding_attention" for kind in values["layer_types"])
    else:
        sliding = max(0, layers - int(values.get("max_window_layers", 28)))
    if 0 < sliding < layers:
        raise ModelUnsupported(f"{path}: sliding windows in some layers only are not supported.")
    return int(window) if sliding else None


# --- GGUF ------------------------------------------------------------------------------------------------------------


def config_from_gguf(file: GgufFile) -> ModelConfig:
    """From the metadata of a GGUF file, and from its tensors where those say more (ties, biases, rope factors).

    Raises:
        ModelDamaged: a needed key or tensor is missing, or makes no sense.
        ModelUnsupported: the file asks for something this version does not run.
    """
    try:
        return _sane(_config_from_gguf(file), file.path)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise file.damaged(f"a value that makes no sense: {error}") from error


def _config_from_gguf(file: GgufFile) -> ModelConfig:
    family = file.architecture
    if family not in _GGUF_FAMILIES:
        raise ModelUnsupported(
            f"{file.path}: architecture {family!r} is not one of {', '.join(_GGUF_FAMILIES)}; take a model of these."
        )
    if file.get(f"{family}.expert_count", 0):
        raise ModelUnsupported(f"{file.path}: mixtures of experts are not supported.")

    def number(key: str, default: float | None = None) -> Any:
        value = file.get(f"{family}.{key}", default)
        if value is None:
            raise file.damaged(f"no {family}.{key}")
        if isinstance(value, list):  # llama.cpp allows one value a layer
            if len(set(value)) != 1:
                raise ModelUnsupported(f"{file.path}: layers of different {key} are not supported.")
            value = value[0]
        return value

    heads, hidden = int(number("attention.head_count")), int(number("embedding_length"))
    head_dim = int(number("attention.key_length", hidden // max(heads, 1)))
    if int(number("attention.value_length", head_dim)) != head_dim:
        raise ModelUnsupported(f"{file.path}: keys and values of different sizes are not supported.")
    if int(number("rope.dimension_count", head_dim)) != head_dim:
        raise ModelUnsupported(f"{file.path}: rotary embedding on a part of each head is not supported.")
    if "token_embd.weight" not in file.tensors:
        raise file.damaged("no tensor token_embd.weight")
    context = int(number("context_length"))
    window = file.get(f"{family}.attention.sliding_window")
    eos = file.get("tokenizer.ggml.eos_token_id")
    return ModelConfig(
        family=family,
        layers=int(number("block_count")),
        hidden=hidden,
        heads=heads,
        kv_heads=int(number("attention.head_count_kv", heads)),
        head_dim=head_dim,
        feed_forward=int(number("feed_forward_length")),
        vocabulary=file.shape("token_embd.weight")[0],
        context=context,
        rope=_gguf_rope(file, head_dim, context),
        norm_eps=float(number("attention.layer_norm_rms_epsilon")),
        tied="output.weight" not in file.tensors,
        attention_bias="blk.0.attn_q.bias" in file.tensors,
        qk_norm=family == "qwen3",
        sliding_window=int(window) if family == "llama" and window and window < context else None,
        bos=file.get("tokenizer.ggml.bos_token_id"),
        eos=_merged(eos, file.get("tokenizer.ggml.eot_token_id")),
    )


def _gguf_rope(file: GgufFile, head_dim: int, context: int) -> Rope:
    prefix = f"{file.architecture}.rope."
    theta = float(file.get(prefix + "freq_base", 10000.0))
    if "rope_freqs.weight" in file.tensors:
        original = file.get(prefix + "scaling.original_context_length")
        return _llama3_rope(file, theta, head_dim, original)
    kind = file.get(prefix + "scaling.type", "none")
    factor = float(file.get(prefix + "scaling.factor", 0.0) or file.get(prefix + "scale_linear", 0.0) or 1.0)
    if kind == "linear" or (kind == "none" and prefix + "scale_linear" in file and factor != 1.0):
        return Rope(theta, "linear", factor)
    if kind == "none":
        return Rope(theta)
    if kind != "yarn":
        raise ModelUnsupported(f"{file.path}: rope scaling {kind!r} is not supported, only linear, llama3 and yarn.")
    scale = file.get(prefix + "scaling.attn_factor", file.get(prefix + "scaling.yarn_attn_factor"))
    return Rope(
        theta,
        "yarn",
        factor=factor,
        original_context=int(file.get(prefix + "scaling.original_context_length", context)),
        beta_fast=float(file.get(prefix + "scaling.yarn_beta_fast", 32.0)),
        beta_slow=float(file.get(prefix + "scaling.yarn_beta_slow", 1.0)),
        # llama.cpp multiplies by this what it computes from the factor; transformers' number replaces it.
        attention_factor=None if scale is None else float(scale) * (0.1 * math.log(max(factor, 1.0)) + 1.0),
    )


def _llama3_rope(file: GgufFile, theta: float, head_dim: int, original: int | None) -> Rope:
    """The llama3 parameters behind ``rope_freqs``, what each pair's frequency is divided by.

    The converter writes down only its results. They follow from four numbers, of which Llama 3.1 to 3.3 have the same
    three; other models' are solved for: between its two limits ``1 / divisor`` is linear in the frequency.
    """
    divisors = file.read("rope_freqs.weight").astype(np.float64).ravel()
    if divisors.shape != (head_dim // 2,):
        raise file.damaged("rope_freqs.weight has a wrong shape")
    factor = float(np.round(divisors.max(), 4))
    if factor == 1.0:
        return Rope(theta)
    guess = Rope(theta, "llama3", factor, 1.0, 4.0, int(original or 8192))
    turns = theta ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)  # per token
    between = (divisors > 1.0 + 1e-5) & (divisors < factor * (1 - 1e-5))
    candidates = [guess]
    if between.sum() >= 2:
        smooth = (1 / divisors[between] - 1 / factor) / (1 - 1 / factor)
        slope, minus_offset = np.polyfit(turns[between], smooth, 1)
        low, context = (
            1.0,
            float(slope / -minus_offset),
        )  # the four numbers are known up to a common scale: fix low at 1
        candidates.append(Rope(theta, "llama3", factor, low, low + float(1 / -minus_offset), round(context)))
    plain = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    for rope in candidates:
        frequencies, _ = rope.frequencies(head_dim)
        if np.allclose(plain / frequencies, divisors, rtol=1e-3):
            return rope
    raise ModelUnsupported(
        f"{file.path}: its rope_freqs are not llama3's; only linear, llama3 and yarn scaling is supported."
    )


# --- both ------------------------------------------------------------------------------------------------------------


def _sane(config: ModelConfig, path: Path) -> ModelConfig:
    sizes = (config.layers, config.hidden, config.heads, config.kv_heads, config.head_dim, config.feed_forward)
    if min(*sizes, config.vocabulary, config.context) < 1 or config.heads % config.kv_heads or config.head_dim % 2:
        raise ModelDamaged(f"{path} describes a model that cannot be ({config}); fetch the model again.")
    return config


def _first(value: Any) -> int | None:
    found = _merged(value)
    return found[0] if found else None


def _merged(*values: Any) -> tuple[int, ...]:
    """Token ids out of numbers, lists of numbers and nulls, each once, in order."""
    ids: dict[int, None] = {}
    for value in values:
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                ids[int(item)] = None
    return tuple(ids)
