"""``foredraft serve`` with a toy in place of the model: the whole command but for torch, so that it starts in a second.

``CloudProcess("toy", options, program="toy_serve")`` with this folder in ``PYTHONPATH``. A pass takes 20 ms. With a model's
folder in place of ``toy`` the toy writes in that model's words.
"""

from __future__ import annotations

import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

from toy_world import VOCABULARY

from foredraft_bench.tethered import tie
from foredraft_cloud import commands
from foredraft_cloud.toy import ToyPass, ToyTarget
from foredraft_shared.command import main as foredraft
from foredraft_shared.models import Model, open_model

__all__ = ["SlowToyTarget"]


class SlowToyTarget(ToyTarget):
    def verify(self, batch: Any, *, exits: bool = True) -> ToyPass:
        time.sleep(0.02)
        return super().verify(batch, exits=exits)


def main() -> int:
    parent, cores, *arguments = sys.argv[1:]
    if not tie(parent, cores):
        return 1
    decoder: Any = ModuleType("foredraft_cloud.decoder")
    decoder.load_target = lambda model, **how: SlowToyTarget(
        vocabulary=model.config.vocabulary if isinstance(model, Model) else VOCABULARY
    )
    sys.modules["foredraft_cloud.decoder"] = decoder
    toy: Any = SimpleNamespace(name="toy", tokenizer=SimpleNamespace(fingerprint="toy"))
    commands.__dict__["open_model"] = lambda name, **how: toy if name == "toy" else open_model(name, **how)
    return foredraft(arguments)


if __name__ == "__main__":
    sys.exit(main())
