"""Times that users give on the command line: a number, and none that a timer cannot wait for."""

from __future__ import annotations

import math

import typer

__all__ = ["LONGEST_S", "a_number"]

LONGEST_S = 7 * 86_400
"""A week: nobody waits longer for an answer, and there are timers that cannot."""


def a_number(value: float | None) -> float | None:
    """The value of an option; a range alone does not keep out what lies nowhere.

    Raises:
        BadParameter: it is no number.
    """
    if value is not None and math.isnan(value):
        raise typer.BadParameter("nan is no number.")
    return value
