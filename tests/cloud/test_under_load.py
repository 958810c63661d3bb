"""Exactness under load: sixteen sessions that begin one after another, and every text is that of the session alone.

Passes take their time on a clock of the test's own, so who meets whom in a pass is the same on every machine.
A small random model runs everywhere; the real one in ``tests/end_to_end/test_under_load.py``, over sockets.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import decoder_models
import pytest
import real_world

from foredraft_bench.load.device import Device, Habits, KnownText
from foredraft_bench.load.driving import Drive
from foredraft_bench.load.exchange import InProcess
from foredraft_bench.load.pattern import independent
from foredraft_cloud.decoder import load_target
from foredraft_cloud.engine import EngineOptions
from foredraft_cloud.target import Run, Target
from foredraft_shared.clock import ManualClock
from foredraft_shared.messages import SamplingParams

SESSIONS, TOKENS = 16, 24
SAMPLINGS = (
    SamplingParams(),
    SamplingParams(temperature=0.8, top_p=0.95, seed=5),
    SamplingParams(temperature=1.3, top_k=40, min_p=0.02, seed=6),
)
HABITS = (
    Habits(ahead=False),
    Habits(token_s=0.001, hints=True),
    Habits(window=2, draft_length=3),
    Habits(window=3, draft_length=8, hints=True),
    Habits("cloud"),
)
PASS_S, ROW_S = 0.004, 0.0001


class Timed:
    """A target whose passes take time on a clock that stands still otherwise."""

    def __init__(self, inner: Target, clock: ManualClock) -> None:
        self._inner = inner
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def verify(self, batch: Sequence[Run], *, exits: bool = True) -> Any:
        self._clock.advance(PASS_S + ROW_S * sum(len(run.tokens) for run in batch))
        return self._inner.verify(batch, exits=exits)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_every_text_under_load_is_that_of_its_session_alone(name: str, dtype: str):
    model = decoder_models.tiny_model(name)
    target = load_target(model, dtype=dtype, exits=(2,), context=256, slots=SESSIONS + 1, threads=1)
    dice = random.Random(name + dtype)
    texts = []
    for sampling, _ in itertools.product(SAMPLINGS, range(4)):
        prompt = tuple(dice.randrange(model.config.vocabulary) for _ in range(dice.choice((1, 7, 33, 150))))
        text = KnownText(prompt, sampling, TOKENS)
        (text.truth,) = real_world.continuations(target, [(prompt, sampling)], TOKENS)
        texts.append(text)
    assert len({text.truth for text in texts}) > 8, "texts that are all alike prove nothing"
    options = EngineOptions(max_sessions=SESSIONS, max_rows=160, hint_confidence=0.0)
    clock = ManualClock()
    devices = [
        Device(
            number, texts, HABITS[number % len(HABITS)], independent(0.7, seed=number), start_at=0.03 * number,
            count=3, keep=True,
        )
        for number in range(SESSIONS)
    ]  # fmt: skip
    exchange = InProcess(Timed(target, clock), options, clock=clock)  # type: ignore[arg-type]
    Drive(exchange, devices, rtt_s=0.004, clock=clock.now).until_done()
    written = [pair for device in devices for pair in device.seen.written]
    assert len(written) == 3 * SESSIONS
    wrong = [(text.truth, tokens) for text, tokens in written if text.truth != tokens]
    assert not wrong, f"{len(wrong)} of {len(written)} texts differ; the first: {wrong[0]}"
    found = exchange.figures()
    assert found["chained_rounds_hit_total"] > 0, "rounds were chained"
    assert found["pass_sessions_sum"] > 2 * found["pass_sessions_count"], "sessions met in passes"
    assert 0 < found["spec_decode_num_accepted_tokens_total"] < found["spec_decode_num_draft_tokens_total"]
