"""``foredraft models``: what there is, fetching it, and what it is like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from . import cache, hub
from .artifact_card import artifact_card
from .artifacts import artifact_kind, load_artifact, shipped
from .catalogue import CATALOGUE
from .opened import Model
from .store import locate, open_model

__all__ = ["models"]

models = typer.Typer(name="models", help="Find, fetch and inspect models.", no_args_is_help=True)

Reference = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A known name, organisation/name[@revision][:QUANT] of the hub, a folder or a .gguf file."
    ),
]
Offline = Annotated[bool, typer.Option("--offline", envvar="FOREDRAFT_OFFLINE", help="Fetch nothing.")]


@models.command("list")
def list_models() -> None:
    """Known models, and those of the Hugging Face hub that are on this machine."""
    table = Table("Name", "Size", "Licence", "On this machine", "What it is", box=None, pad_edge=False)
    for entry in CATALOGUE.values():
        there = "yes" if cache.cached_path(entry) else "no"
        table.add_row(entry.name, _megabytes(entry.bytes), entry.licence, there, entry.summary)
    for name, size, _ in hub.cached_models():
        table.add_row(name, _megabytes(size), "see the hub", "yes", "in the cache of the Hugging Face hub")
    console = Console()
    console.print(table)
    console.print(f"Cache: {cache.cache_directory()}", style="dim", soft_wrap=True, highlight=False)


@models.command()
def pull(reference: Reference, offline: Offline = False) -> None:
    """Fetch a model, unless it is on this machine already, and print where it lies."""
    typer.echo(locate(reference, offline=offline))


@models.command()
def show(reference: Reference, offline: Offline = False) -> None:
    """Shape, size, tokenizer and origin of a model; fetches it if need be. Of a trained artifact: its card."""
    if _is_artifact(reference):
        path = Path(reference)
        Console().print(Markdown(artifact_card(load_artifact(path, artifact_kind(path)))))
        return
    model = open_model(reference, offline=offline)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts(model).items():
        table.add_row(name, value, style="bold" if name == "name" else None)
    console = Console()
    console.print(table)
    entry = CATALOGUE.get(reference.lower())
    if entry and (card := entry.card()):
        console.print()
        console.print(Markdown(card))
    for kind in ("draft", "exits"):
        if trained := shipped(model, kind):
            console.print()
            console.print(Markdown(artifact_card(load_artifact(trained, kind))))


def _is_artifact(reference: str) -> bool:
    """A single safetensors file of ours, not a folder of somebody's model."""
    return reference.endswith(".safetensors") and Path(reference).is_file()


def facts(model: Model) -> dict[str, str]:
    """What ``show`` prints: a word and what to say about it."""
    config, weights, tokenizer = model.config, model.weights, model.tokenizer
    rope = config.rope
    stretched = "" if rope.kind == "default" else f", {rope.kind} × {rope.factor:g}"
    extras = [
        name
        for name, there in (
            ("biases", config.attention_bias),
            ("query/key norm", config.qk_norm),
            ("head tied to the embedding", config.tied),
            (f"sliding window {config.sliding_window}", config.sliding_window is not None),
        )
        if there
    ]
    lines = {
        "name": model.name,
        "path": str(model.path),
        "family": config.family,
        "parameters": f"{weights.parameters / 1e6:.1f} M",
        "weights": f"{weights.quantisation}, {_megabytes(weights.bytes)}",
        "layers": f"{config.layers}, hidden size {config.hidden}, feed-forward {config.feed_forward}",
        "attention": f"{config.heads} heads of {config.head_dim}, {config.kv_heads} for keys and values",
        "positions": f"rotary, theta {rope.theta:g}{stretched}",
        "also": ", ".join(extras) or "nothing special",
        "context": f"{config.context} tokens",
        "vocabulary": f"{tokenizer.vocabulary} tokens, {config.vocabulary} rows",
        "stop tokens": ", ".join(
            f"{token} {tokenizer.decode([token], special=True)!r}" for token in tokenizer.stop_tokens
        ),
        "fingerprint": tokenizer.fingerprint,
        "chat template": "yes" if tokenizer.chat_template else "no",
    }
    if entry := CATALOGUE.get(model.name.lower()):
        lines |= {"licence": entry.licence, "from": f"Python package {entry.package} {entry.version}"}
    return lines


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
