"""An engine over the toy target with nothing around it, and words to talk to it.

``import engine_world`` in a test::

    cloud = engine_world.opened()
    (verdict,) = cloud.verdicts(engine_world.draft(PROMPT, (1, 2)))
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from toy_world import VOCABULARY

from foredraft_cloud.engine import Engine, EngineOptions
from foredraft_cloud.toy import ToyTarget
from foredraft_shared.ledger import EMPTY_DIGEST, extend_digest
from foredraft_shared.messages import (
    CloudMessage,
    Decode,
    Draft,
    EdgeMessage,
    Open,
    SamplingParams,
    Verdict,
)

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=3)
PROMPT = (3, 1, 4, 1, 5)
ONE, TWO = bytes([1]) * 16, bytes([2]) * 16

__all__ = ["GREEDY", "ONE", "PROMPT", "SAMPLED", "TWO", "Cloud", "decode", "digest", "draft", "opened"]


class Cloud:
    """An engine, a clock that ticks a millisecond a look, and everything that was answered."""

    def __init__(self, options: EngineOptions | None = None, target: Any = None) -> None:
        self.target: Any = target or ToyTarget(vocabulary=VOCABULARY)
        self.said: list[tuple[Hashable, CloudMessage]] = []
        self.now_ns = 0
        self.engine = Engine(self.target, lambda peer, message: self.said.append((peer, message)), options, self._tick)

    def _tick(self) -> int:
        self.now_ns += 1_000_000
        return self.now_ns

    def hear(self, *messages: EdgeMessage, peer: Hashable = "device") -> None:
        for message in messages:
            self.engine.receive(peer, message)

    def run(self) -> list[CloudMessage]:
        """Pass after pass until nobody waits; what was said since the last time."""
        while self.engine.step():
            pass
        said = [message for _, message in self.said]
        self.said.clear()
        return said

    def verdicts(self, *messages: EdgeMessage) -> list[Verdict]:
        self.hear(*messages)
        return [message for message in self.run() if isinstance(message, Verdict)]


def digest(text: Sequence[int]) -> int:
    return extend_digest(EMPTY_DIGEST, text)


def draft(
    text: Sequence[int],
    guess: Sequence[int] = (),
    *,
    number: int = 1,
    session: bytes = ONE,
    epoch: int = 1,
    forced: int = 0,
) -> Draft:
    return Draft(session, epoch, number, len(text), digest(text), tuple(guess), forced)


def decode(text: Sequence[int], count: int, *, number: int = 1, session: bytes = ONE, epoch: int = 1) -> Decode:
    return Decode(session, epoch, number, len(text), digest(text), count)


def opened(options: EngineOptions | None = None, **how: object) -> Cloud:
    cloud = Cloud(options)
    cloud.hear(Open(ONE, PROMPT, **how))  # type: ignore[arg-type]
    return cloud
