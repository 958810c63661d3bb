"""A script in a process of its own, for what would take the tests' process with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["run_script"]


def run_script(script: str, timeout_s: float = 50.0) -> subprocess.CompletedProcess[str]:
    """Run ``script``, which may import what tests may; returns when it has ended."""
    folders = [str(Path(__file__).parent), *filter(None, sys.path)]
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
