"""Print the constraints that reproduce this environment: ``make lock`` runs it in a fresh one.

A package whose version here does not run on the oldest Python we support is left to pip there.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata

# What every environment has, and ourselves.
NOT_LOCKED = {"foredraft", "pip", "setuptools", "wheel"}
OLDEST = "3.10"

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
HEADER = f"""\
# The versions foredraft is developed and tested with; `make` installs these. Made by `make lock`, not by hand.
# Locked on Python {PYTHON}; where a version needs a newer Python than {OLDEST}, pip chooses there."""


def constraint(distribution: metadata.Distribution) -> str:
    """One line of a constraints file. The part after ``+`` names a build, not a version: any build will do."""
    line = f"{distribution.name}=={distribution.version.partition('+')[0]}"
    needed = re.search(r">=\s*(3\.\d+)", distribution.metadata.get("Requires-Python") or "")
    newer = needed is not None and int(needed[1][2:]) > int(OLDEST[2:])
    return f"{line} ; python_version >= '{needed[1]}'" if needed and newer else line


if __name__ == "__main__":
    names = {each.name: each for each in metadata.distributions() if each.name not in NOT_LOCKED}
    print(HEADER)
    for name in sorted(names, key=str.lower):
        print(constraint(names[name]))
