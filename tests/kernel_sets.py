"""Compiled kernels by their set of instructions."""

from __future__ import annotations

import ctypes

import pytest

from foredraft_shared.kernels.library import library, missing


def kernels_of(name: str) -> ctypes.CDLL:
    """The test is skipped where this machine cannot have them."""
    found, lack = library(name), missing(name)
    if found is None:
        assert lack is not None
        pytest.skip(f"{name}: {lack.reason}")
    return found
