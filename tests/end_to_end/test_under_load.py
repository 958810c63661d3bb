"""Load over real sockets: the generator against a server, and the real model's texts under it against the same alone."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
import real_world
from toy_world import VOCABULARY, continuation

from foredraft_bench.load.device import Device, Habits, KnownText
from foredraft_bench.load.driving import Drive
from foredraft_bench.load.exchange import OverSockets
from foredraft_bench.load.pattern import independent
from foredraft_bench.load.rows import learn, measure
from foredraft_cloud.decoder import load_target
from foredraft_cloud.engine import EngineOptions
from foredraft_cloud.target import Target
from foredraft_cloud.toy import ToyTarget
from foredraft_cloud.watch import Watch
from foredraft_shared.errors import LinkLost
from foredraft_shared.messages import SamplingParams
from foredraft_shared.models import Model

SAMPLINGS = (SamplingParams(), SamplingParams(temperature=0.8, top_p=0.95, seed=11))
HABITS = (Habits(ahead=False), Habits(token_s=0.002), Habits(window=2, hints=True), Habits("cloud"))


def under_load(
    target: Target, texts: list[KnownText], folder: Path, *, sessions: int, count: int, stagger_s: float
) -> list[Device]:
    watch = Watch("127.0.0.1:0", folder)
    assert watch.http is not None
    options = EngineOptions(max_sessions=sessions)
    try:
        with real_world.serving(target, "zmq", model="m", options=options, observer=watch.observer) as service:
            watch.show(service.server)
            with OverSockets(service.address, watch.http.url, sessions) as exchange:
                now = time.perf_counter()
                devices = [
                    Device(
                        number, texts, HABITS[number % len(HABITS)], independent(0.75, seed=number),
                        start_at=now + stagger_s * number, count=count, keep=True,
                    )
                    for number in range(sessions)
                ]  # fmt: skip
                Drive(exchange, devices).until_done()
                assert exchange.figures()["generation_tokens_total"] >= sum(
                    len(tokens) for device in devices for _, tokens in device.seen.written
                )
        return devices
    finally:
        watch.close()


@pytest.mark.timeout(60)
def test_devices_over_sockets_write_what_the_target_says(tmp_path: Path):
    texts = [KnownText((7, number), SAMPLINGS[number % 2], 10) for number in range(1, 9)]
    for text in texts:
        text.truth = tuple(continuation(text.prompt, text.sampling, 10))
    devices = under_load(ToyTarget(vocabulary=VOCABULARY), texts, tmp_path, sessions=12, count=4, stagger_s=0.005)
    assert [(device.seen.texts, device.seen.wrong) for device in devices] == [(4, 0)] * 12


@pytest.mark.timeout(60)
def test_a_row_is_measured_over_sockets_with_the_servers_own_figures(tmp_path: Path):
    watch = Watch("127.0.0.1:0", tmp_path)
    assert watch.http is not None
    try:
        with real_world.serving(ToyTarget(), "zmq", model="toy", observer=watch.observer) as service:
            watch.show(service.server)
            with OverSockets(service.address, watch.http.url, 3) as exchange:
                texts = [KnownText((7, number), SAMPLINGS[number % 2], 10) for number in range(1, 4)]
                learn(exchange, texts)
                row = measure(exchange, texts, 3, Habits(), independent(0.8), seconds=0.5, warm_up_s=0.1)
        assert row.passes > 0
        assert row.tokens > 0
        assert row.outside_share is not None
    finally:
        watch.close()


@pytest.mark.timeout(60)
def test_load_on_nobody_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("foredraft_bench.load.exchange.GREETING_S", 0.2)
    with pytest.raises(LinkLost, match="does the server run"):
        OverSockets("tcp://127.0.0.1:9", "http://127.0.0.1:9", 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "w8a8"])
def test_sixteen_sessions_of_the_real_model_write_what_each_writes_alone(smollm2: Model, tmp_path: Path, dtype: str):
    target = load_target(smollm2, dtype=dtype, exits=(20,), context=320, slots=17, threads=1)
    tokens = 32
    prompts = [tuple(smollm2.tokenizer.encode(text)) for text in real_world.prompts()]
    texts = []
    for prompt, sampling in itertools.islice(itertools.product(prompts, SAMPLINGS), 24):
        text = KnownText(prompt, sampling, tokens)
        (text.truth,) = real_world.continuations(target, [(prompt, sampling)], tokens)
        texts.append(text)
    devices = under_load(target, texts, tmp_path, sessions=16, count=2, stagger_s=0.25)
    assert [(device.seen.texts, device.seen.wrong) for device in devices] == [(2, 0)] * 16
