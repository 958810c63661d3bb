"""Tiny random models for tests, as Hugging Face folders and as GGUF files, written in milliseconds without torch.

``import checkpoints`` in a test (``tests`` is on pytest's python path)::

    folder = checkpoints.write_hugging_face(tmp_path / "target", "qwen2", layers=4)
    draft = checkpoints.write_hugging_face(tmp_path / "draft", "qwen2", layers=2)     # the first layers of the same
    file = checkpoints.write_gguf(folder, tmp_path / "target.gguf", "Q8_0")

A tensor's values follow from ``seed`` and its name alone, so a model with fewer layers and the same seed has the same
first layers, and agrees with the deeper one now and then, as a draft should. The tokenizer is a byte-level BPE of 400
tokens, the same for a family wherever it is written.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from foredraft_shared.models.config import FAMILIES

__all__ = ["FAMILIES", "PRE_TOKENIZERS", "VOCABULARY", "Dtype", "tiny_tokenizer", "write_gguf", "write_hugging_face"]

Dtype: TypeAlias = Literal["float32", "float16", "bfloat16"]
VOCABULARY = 400
"""Ids the tiny tokenizer uses; the models' embeddings have 16 rows more, as real ones often do."""
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CORPUS = (
    "The robot takes the red cup from the table and puts it into the sink, then it goes back to the door.\n"
    "A small model drafts the next words, and a large model reads them all at once; what they agree on is kept.\n"
    "    def answer(question: str) -> int:\n        return 42  # naïve café, 12345, 3.14, Straße, 日本語, 😀\n"
    "Beautiful is better than ugly. Explicit is better than implicit. Simple is better than complex.\n"
)
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {"llama": "smollm", "mistral": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2"}
"""How each family's tiny tokenizer cuts a text, by llama.cpp's names."""


def tiny_tokenizer(family: str) -> Tokenizer:
    """A trained byte-level BPE as the family's own ``tokenizer.json`` describes it."""
    pre = PRE_TOKENIZERS[family]
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    if pre == "smollm":
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        pattern = _LLAMA3 if pre == "llama-bpe" else _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        parts = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_CORPUS] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    assert tokenizer.get_vocab_size() == VOCABULARY
    return tokenizer


def write_hugging_face(
    folder: Path,
    family: str = "llama",
    *,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    feed_forward: int = 96,
    context: int = 512,
    tied: bool = False,
    dtype: Dtype = "float32",
    seed: int = 0,
    shards: int = 1,
    transformers: Literal[4, 5] = 5,
    rope: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint: ``config.json``, safetensors, ``tokenizer.json`` and the rest.

    Args:
        folder: made if absent.
        family: one of :data:`FAMILIES`.
        transformers: in whose style ``config.json`` writes the rotary parameters.
        rope: further rotary parameters, such as ``{"rope_type": "linear", "factor": 2.0}``.
        overrides: put into ``config.json`` last; values do not change the tensors.

    Returns:
        ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "model_type": family,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": feed_forward,
        "vocab_size": VOCABULARY + 16,
        "max_position_embeddings": context,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "bos_token_id": VOCABULARY - 3,
        "eos_token_id": VOCABULARY - 1,
        "torch_dtype" if transformers == 4 else "dtype": dtype,
    }
    if family == "mistral":
        config["sliding_window"] = None
    if transformers == 4:
        config |= {"rope_theta": 10000.0, "rope_scaling": dict(rope) if rope else None}
    else:
        config["rope_parameters"] = {"rope_theta": 10000.0, "rope_type": "default", **(rope or {})}
    config |= overrides or {}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [VOCABULARY - 1, VOCABULARY - 3]}))
    tiny_tokenizer(family).save(str(folder / "tokenizer.json"))
    settings = {"bos_token": SPECIALS[0], "eos_token": SPECIALS[2], "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    tensors = {
        name: _values(name, shape, seed)
        for name, shape in _shapes(
            family, layers, hidden, heads * head_dim, kv_heads * head_dim, head_dim, feed_forward
        )
        if not (tied and name == "lm_head.weight")
    }
    _save(folder, tensors, dtype, shards)
    return folder


def _shapes(
    family: str, layers: int, hidden: int, queries: int, keys: int, head_dim: int, feed_forward: int
) -> list[tuple[str, tuple[int, ...]]]:
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("model.embed_tokens.weight", (VOCABULARY + 16, hidden)),
        ("model.norm.weight", (hidden,)),
        ("lm_head.weight", (VOCABULARY + 16, hidden)),
    ]
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes += [
            (prefix + "input_layernorm.weight", (hidden,)),
            (prefix + "post_attention_layernorm.weight", (hidden,)),
            (prefix + "self_attn.q_proj.weight", (queries, hidden)),
            (prefix + "self_attn.k_proj.weight", (keys, hidden)),
            (prefix + "self_attn.v_proj.weight", (keys, hidden)),
            (prefix + "self_attn.o_proj.weight", (hidden, queries)),
            (prefix + "mlp.gate_proj.weight", (feed_forward, hidden)),
            (prefix + "mlp.up_proj.weight", (feed_forward, hidden)),
            (prefix + "mlp.down_proj.weight", (hidden, feed_forward)),
        ]
        if family == "qwen2":
            shapes += [
                (prefix + f"self_attn.{part}_proj.bias", (size,))
                for part, size in (("q", queries), ("k", keys), ("v", keys))
            ]
        if family == "qwen3":
            shapes += [(prefix + f"self_attn.{part}_norm.weight", (head_dim,)) for part in "qk"]
    return shapes


def _values(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    noise = generator.standard_normal(shape, dtype=np.float32)
    if "norm" in name:
        return 1 + np.float32(0.1) * noise
    if len(shape) == 1:
        return np.float32(0.1) * noise
    return noise / np.float32(np.sqrt(shape[1]))


def _save(folder: Path, tensors: dict[str, np.ndarray[Any, Any]], dtype: str, shards: int) -> None:
    names = sorted(tensors)
    if shards == 1:
        _save_file(folder / "model.safetensors", tensors, dtype)
        return
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        _save_file(folder / file, part, dtype)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def _save_file(path: Path, tensors: dict[str, np.ndarray[Any, Any]], dtype: str) -> None:
    if dtype != "bfloat16":
        save_file({name: np.ascontiguousarray(value, dtype) for name, value in tensors.items()}, path)
        return
    # numpy has no bfloat16: write its bits (the upper half of the float32, cut off) under that name by hand.
    header: dict[str, Any] = {}
    data = bytearray()
    for name, value in tensors.items():
        bits = (np.ascontiguousarray(value).view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": value.shape, "data_offsets": [len(data), len(data) + len(bits)]}
        data += bits
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


# --- GGUF ------------------------------------------------------------------------------------------------------------

_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    folder: Path,
    path: Path,
    kind: str = "F32",
    *,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray[Any, Any]] | None = None,
    vocabulary: Mapping[str, Any] | None = None,
) -> Path:
    """Convert a float32 folder of :func:`write_hugging_face` as llama.cpp's ``convert_hf_to_gguf.py`` would.

    Args:
        folder: the checkpoint.
        path: the file to write.
        kind: element type of the matrices that can have it (their rows must be whole blocks), such as ``Q8_0``.
        metadata: further keys (strings, ints, floats); a key of :func:`write_hugging_face`'s own is replaced.
        tensors: further tensors under their GGUF names.
        vocabulary: put over the keys ``tokenizer.ggml.…``; ``None`` leaves one out.

    Returns:
        ``path``.
    """
    config = json.loads((folder / "config.json").read_text())
    family = config["model_type"]
    architecture = "llama" if family == "mistral" else family
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    writer = GGUFWriter(path, architecture)
    keys: dict[str, Any] = {
        f"{architecture}.block_count": config["num_hidden_layers"],
        f"{architecture}.context_length": config["max_position_embeddings"],
        f"{architecture}.embedding_length": config["hidden_size"],
        f"{architecture}.feed_forward_length": config["intermediate_size"],
        f"{architecture}.attention.head_count": heads["q"],
        f"{architecture}.attention.head_count_kv": heads["k"],
        f"{architecture}.attention.key_length": config["head_dim"],
        f"{architecture}.attention.value_length": config["head_dim"],
        f"{architecture}.rope.dimension_count": config["head_dim"],
        f"{architecture}.rope.freq_base": 10000.0,
        f"{architecture}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        **(metadata or {}),
    }
    for key, value in keys.items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(key, value)
    _add_tokenizer(writer, folder, family, config, vocabulary or {})
    stored: dict[str, np.ndarray[Any, Any]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        stored |= load_file(file)
    for name, values in stored.items():
        layer, part, suffix = _split(name)
        if architecture == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
            values = _permute(values, heads[part[len("self_attn.")]])
        _add_tensor(writer, f"{layer}{_GGUF_NAMES[part]}.{suffix}", values, kind)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _split(name: str) -> tuple[str, str, str]:
    part, suffix = name.rsplit(".", 1)
    if not part.startswith("model.layers."):
        return "", part, suffix
    layer, part = part.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.", part, suffix


def _permute(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    # LlamaModel.permute of convert_hf_to_gguf.py, word for word.
    return (
        values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    )


def _add_tensor(writer: GGUFWriter, name: str, values: np.ndarray[Any, Any], kind: str) -> None:
    if values.ndim == 1 or kind == "F32":
        writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
    elif kind == "F16":
        writer.add_tensor(name, values.astype(np.float16))
    else:
        type_ = GGMLQuantizationType[kind]
        writer.add_tensor(name, quantize(np.ascontiguousarray(values, np.float32), type_), raw_dtype=type_)


def _add_tokenizer(
    writer: GGUFWriter, folder: Path, family: str, config: dict[str, Any], changes: Mapping[str, Any]
) -> None:
    state = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    pieces = {id: piece for piece, id in state["model"]["vocab"].items()}
    added = {entry["id"]: entry["content"] for entry in state["added_tokens"]}
    size = config["vocab_size"]
    values = {
        "model": "gpt2",
        "pre": PRE_TOKENIZERS[family],
        "tokens": [added.get(id) or pieces.get(id) or f"[PAD{id}]" for id in range(size)],
        "token_type": [3 if id in added else 1 if id in pieces else 5 for id in range(size)],
        "merges": [" ".join(merge) for merge in state["model"]["merges"]],
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": config["eos_token_id"],
        **({} if "model" in changes and changes["model"] == "llama" else {"add_bos_token": False}),
        **changes,
    }
    for key, value in values.items():
        add = {
            str: writer.add_string,
            bool: writer.add_bool,
            int: writer.add_uint32,
            list: writer.add_array,
            type(None): lambda key, value: None,
        }[type(value)]
        add(f"tokenizer.ggml.{key}", value)
    template = folder / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text())
