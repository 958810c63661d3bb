"""Which foredraft this is."""

from __future__ import annotations

from functools import cache
from importlib import metadata

__all__ = ["version"]


@cache
def version() -> str:
    """The installed version; ``pyproject.toml`` is the one place it is written."""
    try:
        return metadata.version("foredraft")
    except metadata.PackageNotFoundError:  # the folders are on the path, but nothing is installed
        return "0+unknown"
