"""A model of the store in transformers: what our own decoder is compared with."""

from __future__ import annotations

from typing import Any

import torch

from foredraft_shared.errors import BackendMissing, ModelUnsupported
from foredraft_shared.models import Model

__all__ = ["in_transformers"]

_THEIR_NAMES = (
    ("embedding.", "model.embed_tokens."),
    ("layers.", "model.layers."),
    ("attn_norm.", "input_layernorm."),
    ("mlp_norm.", "post_attention_layernorm."),
    *((f"attn.{part}.", f"self_attn.{part}_proj.") for part in "qkvo"),
    *((f"attn.{part}_norm.", f"self_attn.{part}_norm.") for part in "qk"),
    *((f"mlp.{part}.", f"mlp.{part}_proj.") for part in ("gate", "up", "down")),
    ("head.", "lm_head."),
)


def in_transformers(
    model: Model, dtype: torch.dtype = torch.float32, attention: str = "sdpa", *, layers: int | None = None
) -> Any:
    """``model``, or its first ``layers``, as a ``PreTrainedModel``, ready to be called.

    Raises:
        BackendMissing: transformers is not installed.
        ModelUnsupported: its rope is of a kind this comparison does not set up.
    """
    try:
        import transformers
    except ImportError:
        raise BackendMissing("The comparison needs transformers: pip install 'foredraft[dev]'.") from None
    config = model.config
    if config.rope.kind != "default":
        raise ModelUnsupported(
            f"rope scaling {config.rope.kind!r} is not set up for the comparison; take another model."
        )
    count = config.layers if layers is None else min(layers, config.layers)
    settings = transformers.AutoConfig.for_model(
        config.family,
        vocab_size=config.vocabulary,
        hidden_size=config.hidden,
        intermediate_size=config.feed_forward,
        num_hidden_layers=count,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context,
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tied,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope.theta},
    )
    if config.family == "mistral":
        settings.sliding_window = config.sliding_window
    # Memory first, numbers after: transformers would take a minute to draw random ones.
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(settings, attn_implementation=attention)
    rotary = type(theirs.model.rotary_emb)(settings)
    state = {}
    for name in model.weights:
        if name.startswith("layers.") and int(name.split(".")[1]) >= count:
            continue
        key = name if name != "norm.weight" else "model.norm.weight"
        for ours, other in _THEIR_NAMES:
            key = key.replace(ours, other)
        state[key] = torch.tensor(model.weights[name]).to(dtype)
    if config.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    theirs.load_state_dict(state, assign=True)
    theirs.model.rotary_emb = rotary
    theirs.tie_weights()
    return theirs.eval()
