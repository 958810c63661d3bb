"""What a load is put on: a target served with these settings, and the texts that are written on it."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foredraft_shared.errors import UsageError
from foredraft_shared.messages import SamplingParams
from foredraft_shared.models import Model

from ..processes import CloudProcess, Cores, watching
from .device import KnownText
from .exchange import Exchange, InProcess, OverSockets

__all__ = ["Setting", "counts_from", "known_texts", "machine", "serving"]

_ASKED = ("Describe", "Explain what people should know about", "Write a short story about", "List some facts about")
_ABOUT = (
    "the sea", "a bicycle", "bread", "the moon", "winter", "a lighthouse", "bees", "glass", "trains", "tea", "volcanoes",
    "a violin", "rivers", "paper", "owls", "the desert",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """What is served, and where."""

    model: str
    dtype: str
    threads: int
    sessions: int
    """Most of them at once."""
    context: int
    in_process: bool = False
    exits: str | None = "none"
    """As ``foredraft serve`` takes them; ``None``: wherever a head is trained."""
    heads: str | None = None
    drop_confidence: float | None = None
    cache_mib: int | None = None

    @property
    def options(self) -> list[str]:
        """The same for ``foredraft serve``."""
        given = ["--dtype", self.dtype, "--threads", str(self.threads), "--context", str(self.context)]
        given += ["--max-sessions", str(self.sessions + 1)]
        optional = (
            ("--exits", self.exits),
            ("--heads", self.heads),
            ("--drop-confidence", self.drop_confidence),
            ("--cache-mib", self.cache_mib),
        )
        for name, value in optional:
            given += [] if value is None else [name, str(value)]
        return given


def known_texts(model: Model, count: int, max_tokens: int, prompts: Sequence[str] = ()) -> list[KnownText]:
    """So many texts, every other of them sampled; what the target says is not known yet."""
    prompts = prompts or [f"{ask} {about}." for about in _ABOUT for ask in _ASKED]
    texts = []
    for index in range(count):
        question = [{"role": "user", "content": prompts[index % len(prompts)]}]
        tokens = model.tokenizer.encode(model.tokenizer.chat(question))
        sampled = bool(index % 2) or index >= len(prompts)  # a prompt that comes again comes with another seed
        params = SamplingParams(temperature=0.8, top_p=0.95, seed=index) if sampled else SamplingParams()
        texts.append(KnownText(tuple(tokens), params, max_tokens))
    return texts


@contextlib.contextmanager
def serving(setting: Setting, model: Model, cores: Cores) -> Iterator[Exchange]:
    """The target, ready for devices: a process of its own, or here."""
    if setting.in_process:
        yield _in_process(setting, model)
        return
    options = [*setting.options, "--metrics", "127.0.0.1:0", "--log-level", "warning"]
    with CloudProcess(setting.model, options, cores.cloud) as cloud, watching(cloud):
        cloud.wait_until_ready()
        with OverSockets(cloud.address, cloud.facts["metrics"], setting.sessions) as exchange:
            yield exchange


def _in_process(setting: Setting, model: Model) -> Exchange:
    from foredraft_cloud.decoder import load_target
    from foredraft_cloud.engine import EngineOptions
    from foredraft_cloud.exit_choice import exit_layers, heads_for

    layers = exit_layers(setting.exits)
    target = load_target(
        model,
        dtype=setting.dtype,
        exits=layers,
        heads=None if layers == () else heads_for(model, Path(setting.heads) if setting.heads else None),
        threads=setting.threads,
        context=setting.context,
        slots=setting.sessions + 1,
        cache_bytes=None if setting.cache_mib is None else setting.cache_mib * 2**20,
    )
    options = EngineOptions(max_sessions=setting.sessions + 1, drop_confidence=setting.drop_confidence)
    return InProcess(target, options, model=model.name, dtype=setting.dtype)


def machine() -> dict[str, Any]:
    """What a report says of where it was measured."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def counts_from(text: str) -> list[int]:
    """Numbers of sessions.

    Raises:
        UsageError: that is not what it says.
    """
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UsageError(f"sessions are {text!r}; give numbers from 1 on with commas between, such as 1,4,16.")
    return counts
