"""Many sessions, little memory: the limit holds, everybody is served, and no token is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from decoder_models import tiny_model
from engine_world import GREEDY, SAMPLED, Cloud, decode, draft
from toy_world import VOCABULARY, continuation

from foredraft_cloud.decoder import load_target
from foredraft_cloud.engine import EngineOptions
from foredraft_cloud.target import Run, Target
from foredraft_cloud.toy import ToyTarget
from foredraft_shared.messages import Close, Failure, Open, SamplingParams, TokenId, Verdict
from foredraft_shared.models import Model

PATIENT = EngineOptions(max_sessions=400, idle_s=5.0, park_s=10**6)


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def text_of(number: int, length: int, vocabulary: int = VOCABULARY) -> tuple[TokenId, ...]:
    dice = random.Random(number)
    return tuple(dice.randrange(vocabulary) for _ in range(length))


def alone(target: Target, prompt: tuple[TokenId, ...], params: SamplingParams, count: int) -> list[TokenId]:
    """What a target of the same weights says with nobody else in it."""
    slot = target.open()
    text = list(prompt)
    for _ in range(count):
        view = target.verify([Run(slot, tuple(text[slot.length :]), 1)], exits=False).step()
        assert view.logits[0] is not None
        text.append(view.logits[0].pick(0, params, len(text)))
    target.release(slot)
    return text[len(prompt) :]


def come_and_go(cloud: Cloud, prompts: list[tuple[TokenId, ...]], turns: int, count: int) -> dict[int, list[TokenId]]:
    """Every session writes ``count`` tokens a turn, and is parked between turns; returns the texts."""
    for number, prompt in enumerate(prompts):
        cloud.hear(Open(name(number), prompt, (GREEDY, SAMPLED)[number % 2], max_tokens=100))
        cloud.run()
        cloud.now_ns += 10**9  # those of five openings ago have been silent for too long
    texts: dict[int, list[TokenId]] = {number: [] for number in range(len(prompts))}
    limit = cloud.engine.statistics.cache_limit_bytes
    for turn in range(turns):
        for number, prompt in enumerate(prompts):
            so_far = [*prompt, *texts[number]]
            cloud.hear(decode(so_far, count, session=name(number), number=turn + 1))
            if number % 7 != 6:
                continue
            for message in cloud.run():
                assert isinstance(message, Verdict), message
                texts[int.from_bytes(message.session, "big")].append(message.token)
            assert cloud.engine.statistics.cache_used_bytes <= limit
            use = cloud.target.pages.use
            assert (use.held + use.kept) * use.page_bytes <= limit
            cloud.now_ns += 6 * 10**9
        for message in cloud.run():
            assert isinstance(message, Verdict), message
            texts[int.from_bytes(message.session, "big")].append(message.token)
    return texts


def test_two_hundred_parked_sessions_share_a_small_cache():
    cloud = Cloud(PATIENT, ToyTarget(vocabulary=VOCABULARY, pages=64, page_tokens=16))
    prompts = [text_of(number, 20 + number % 30) for number in range(200)]
    texts = come_and_go(cloud, prompts, turns=2, count=3)
    for number, prompt in enumerate(prompts):
        assert texts[number] == continuation(prompt, (GREEDY, SAMPLED)[number % 2], 6)
    statistics = cloud.engine.statistics
    assert statistics.parked > 150
    assert statistics.evictions >= 200
    assert 200 <= statistics.rebuilds <= statistics.evictions


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_real_decoder_evicted_and_rebuilt_writes_the_same(dtype: str):
    model = tiny_model("llama")
    page = load_target(model, dtype=dtype, slots=1).pages.page_bytes
    target = load_target(model, dtype=dtype, cache_bytes=12 * page)
    cloud = Cloud(PATIENT, target)
    prompts = [text_of(number, 60 + 5 * (number % 5), 320) for number in range(30)]
    texts = come_and_go(cloud, prompts, turns=2, count=3)
    reference = load_target(model, dtype=dtype, slots=1)
    for number, prompt in enumerate(prompts):
        assert texts[number] == alone(reference, prompt, (GREEDY, SAMPLED)[number % 2], 6)
    assert cloud.engine.statistics.rebuilds > 20


@pytest.fixture(params=["toy", "decoder"])
def new_target(request: pytest.FixtureRequest) -> Iterator[Callable[[], Target]]:
    if request.param == "toy":
        yield lambda: ToyTarget(vocabulary=VOCABULARY)
    else:
        yield lambda: load_target(tiny_model("llama"), dtype="bfloat16", slots=24)


def test_a_shared_prompt_is_read_once_for_twenty_sessions(new_target: Callable[[], Target]):
    """Opened all at once, before anything of it is read."""
    shared = text_of(0, 500)
    prompts = [(*shared, number, *text_of(number, 8)) for number in range(1, 21)]
    cloud = Cloud(EngineOptions(), new_target())
    for number, prompt in enumerate(prompts):
        cloud.hear(Open(name(number), prompt, max_tokens=8))
        cloud.hear(draft(prompt, session=name(number)))
    told = {message.session: message.token for message in cloud.run() if isinstance(message, Verdict)}
    reference = new_target()
    for number, prompt in enumerate(prompts):
        assert [told[name(number)]] == alone(reference, prompt, GREEDY, 1)
    statistics = cloud.engine.statistics
    assert statistics.rows == 500 + 20 * 9
    assert statistics.prefix_tokens == 19 * 500
    assert statistics.prefix_hits >= 19


def test_a_text_that_goes_on_where_another_ended_finds_it():
    cloud = Cloud(EngineOptions())
    prompt = text_of(1, 50)
    cloud.hear(Open(name(1), prompt))
    answer = [verdict.token for verdict in cloud.verdicts(decode(prompt, 10, session=name(1)))]
    cloud.hear(Close(name(1)))
    rows = cloud.engine.statistics.rows
    history = (*prompt, *answer, 3, 4, 5)
    cloud.hear(Open(name(2), history))
    (verdict,) = cloud.verdicts(draft(history, session=name(2)))
    assert [verdict.token] == continuation(history, GREEDY, 1)
    assert cloud.engine.statistics.rows - rows == 4  # the last token of the answer was never fed


def test_what_does_not_fit_beside_the_active_sessions_is_refused_at_once():
    cloud = Cloud(EngineOptions(idle_s=5.0), ToyTarget(vocabulary=VOCABULARY, pages=8, page_tokens=16))
    first, second = text_of(1, 80), text_of(2, 80)
    cloud.hear(Open(name(1), first, max_tokens=30), Open(name(2), second, max_tokens=30))
    (failure,) = cloud.run()
    assert isinstance(failure, Failure)
    assert (failure.code, failure.retryable, failure.session) == ("overloaded", True, name(2))
    assert failure.retry_after_ms > 0
    cloud.now_ns += 6 * 10**9
    cloud.hear(Open(name(2), second, max_tokens=30))
    assert len(cloud.verdicts(decode(second, 5, session=name(2)))) == 5
    assert cloud.engine.statistics.evictions == 1
    tokens = [verdict.token for verdict in cloud.verdicts(decode(first, 5, session=name(1)))]
    assert tokens == [] or tokens == continuation(first, GREEDY, 5)


def test_two_texts_that_outgrow_the_cache_together_are_both_written():
    """Room for both at first, then for one: the later one waits, and is never pushed out in turn for ever."""
    cloud = Cloud(EngineOptions(idle_s=10**5), ToyTarget(vocabulary=VOCABULARY, pages=8, page_tokens=16))
    prompts = [text_of(1, 40), text_of(2, 40)]
    for number, prompt in enumerate(prompts):
        cloud.hear(Open(name(number), prompt, max_tokens=60), decode(prompt, 60, session=name(number)))
    for _ in range(400):
        if not cloud.engine.step() and cloud.engine.sessions == 2:
            cloud.hear(Close(name(0)))
    said = [message for message in cloud.run() if isinstance(message, Verdict)]
    for number, prompt in enumerate(prompts):
        written = [message.token for message in said if message.session == name(number)]
        assert written == continuation(prompt, GREEDY, 60)
    assert cloud.target.passes < 160
    assert cloud.engine.statistics.evictions == cloud.engine.statistics.rebuilds == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_model_within_a_gibibyte(smollm2: Model):
    target = load_target(smollm2, dtype="bfloat16", context=1024, cache_bytes=2**30, threads=1)
    cloud = Cloud(PATIENT, target)
    shared = tuple(smollm2.tokenizer.encode("You are a helpful assistant. " * 12))
    prompts = [(*shared[: number % 60], *text_of(number, 260, 49152)) for number in range(200)]
    texts = come_and_go(cloud, prompts, turns=1, count=3)
    assert target.pages.use.limit_bytes <= 2**30
    statistics = cloud.engine.statistics
    assert statistics.evictions > 100
    assert statistics.rebuilds > 50
    reference = load_target(smollm2, dtype="bfloat16", context=1024, slots=1, threads=1)
    for number in range(0, 200, 9):
        assert texts[number] == alone(reference, prompts[number], (GREEDY, SAMPLED)[number % 2], 3)
