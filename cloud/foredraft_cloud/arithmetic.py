"""The arithmetics a target can be run in, by the names that users give and devices are told."""

from __future__ import annotations

from foredraft_shared.errors import UsageError

__all__ = ["ARITHMETICS", "DTYPE_HELP", "check_arithmetic"]

ARITHMETICS = ("bfloat16", "float32", "w8a8")
"""``w8a8``: int8 weights and activations in every product (:mod:`foredraft_cloud.quantised`), bfloat16 in the cache."""

DTYPE_HELP = "The target's arithmetic: bfloat16, float32 or w8a8 (int8)."


def check_arithmetic(name: str) -> None:
    """
    Raises:
        UsageError: there is no arithmetic of that name.
    """
    if name not in ARITHMETICS:
        raise UsageError(f"dtype is {name!r}; choose {', '.join(ARITHMETICS[:-1])} or {ARITHMETICS[-1]}.")
