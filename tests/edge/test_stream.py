"""What a caller sees of a text: events, steps with deadlines, saved texts. Over memory, with a toy cloud in threads."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import real_world
from toy_world import VOCABULARY, ToyDrafter, continuation

from foredraft_cloud.options import EngineOptions
from foredraft_cloud.toy import ToyTarget
from foredraft_edge import AsyncClient, Client
from foredraft_edge.drafters.ngram import NgramDrafter
from foredraft_edge.stream import TokenEvent, standing
from foredraft_edge.watch import SessionState
from foredraft_shared.errors import DeadlineMissed, LinkLost, ModelChanged, PromptTooLong, TakenOver, UsageError
from foredraft_shared.messages import CloudMessage, Draft, EdgeMessage, Open, Resume, SamplingParams, Verdict
from foredraft_shared.models import Tokenizer
from foredraft_shared.transports.base import Transport
from foredraft_shared.transports.faulty import Faults, FaultyTransport

PROMPT = (3, 1, 4, 1, 5)
GREEDY = SamplingParams()
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def tokenizer(smollm2: Any) -> Tokenizer:
    return smollm2.tokenizer  # type: ignore[no-any-return]


@contextmanager
def connected(
    tokenizer: Tokenizer, model: str = "toy", lossy_exit: int = 0
) -> Iterator[tuple[Client, FaultyTransport]]:
    target, options = ToyTarget(vocabulary=VOCABULARY), EngineOptions(lossy_exit=lossy_exit)
    with real_world.serving(
        target, "memory", fingerprint=tokenizer.fingerprint, model=model, options=options
    ) as service:
        transport = FaultyTransport(service.connect(), Faults())
        with Client(None, ToyDrafter(0.8), tokenizer=tokenizer, transport=transport) as client:
            yield client, transport


def event(position: int, token: int = 0, **how: Any) -> TokenEvent:
    return TokenEvent(token, position, "", "edge" if how.get("provisional") else "target", True, **how)


def test_the_last_event_of_a_position_stands_and_revisions_void_what_is_behind():
    events = [
        event(5),
        *(event(position, position, provisional=True) for position in range(6, 12)),
        event(6, 6),
        event(7, 99, revised=True),
        event(8, 1),
    ]
    assert [(each.position, each.token) for each in standing(events)] == [(5, 0), (6, 6), (7, 99), (8, 1)]


def test_an_end_voids_what_was_provisional_behind_it():
    events = [*(event(position, provisional=True) for position in range(5, 12)), event(5), event(6, finish="stop")]
    assert [each.position for each in standing(events)] == [5, 6]


def test_an_outage_leaves_the_same_text_in_tokens_and_words(tokenizer: Tokenizer):
    truth = continuation(PROMPT, GREEDY, 40)
    with connected(tokenizer) as (client, transport):
        whole = client.generate(PROMPT, max_tokens=40, stop_tokens=())
        assert list(whole.tokens) == truth
        stream = client.stream(PROMPT, max_tokens=40, stop_tokens=(), on_disconnect="edge")
        events = list(itertools.islice(stream, 10))
        transport.kill()
        while not events[-1].provisional:
            events.append(next(stream))
        assert stream.state is SessionState.EDGE_ONLY
        assert events[-1].origin == "edge"
        transport.heal()
        events += stream
    final = standing(events)
    assert [each.token for each in final] == truth
    assert "".join(each.text for each in final) == whole.text
    assert {each.origin for each in final} == {"target"}
    assert stream.finish == "length"


def test_steps_take_what_is_there_by_their_deadline(tokenizer: Tokenizer):
    truth = continuation(PROMPT, GREEDY, 60)
    with connected(tokenizer) as (client, transport):
        stream = client.stream(PROMPT, max_tokens=60, stop_tokens=(), on_disconnect="edge")
        events = stream.take(8, deadline_ms=20_000)
        assert [each.token for each in events] == truth[:8]
        transport.kill()
        begun = time.monotonic()
        while not any(each.provisional for each in events):
            events += stream.take(4, deadline_ms=500)
        assert time.monotonic() - begun < 5.0
        transport.heal()
        while not stream.finish:
            events += stream.take(7, deadline_ms=500)
        assert stream.take(1, deadline_ms=1) == []
    assert [each.token for each in standing(events)] == truth


def test_a_step_without_anything_is_a_missed_deadline_and_the_text_goes_on(tokenizer: Tokenizer):
    with connected(tokenizer) as (client, transport):
        stream = client.stream(PROMPT, max_tokens=8, stop_tokens=())
        transport.kill()
        begun = time.monotonic()
        with pytest.raises(DeadlineMissed, match="on_disconnect"):
            stream.take(4, deadline_ms=150)
        assert time.monotonic() - begun >= 0.15
        transport.heal()
        assert [each.token for each in stream] == continuation(PROMPT, GREEDY, 8)


def test_a_text_with_a_deadline_says_why_it_ends(tokenizer: Tokenizer):
    with connected(tokenizer) as (client, transport):
        stream = client.stream(PROMPT, max_tokens=2000, stop_tokens=(), deadline_ms=60_000, on_disconnect="edge")
        events = list(itertools.islice(stream, 5))
        stream.close()
        transport.kill()
        generation = client.generate(PROMPT, max_tokens=2000, stop_tokens=(), deadline_ms=800, on_disconnect="edge")
    assert len(events) == 5
    assert generation.finish == "deadline"
    assert generation.tokens
    assert set(generation.origins) == {"edge"}


def test_a_saved_text_is_taken_up_where_it_was_left(tokenizer: Tokenizer, tmp_path: Path):
    truth = continuation(PROMPT, GREEDY, 30)
    path = tmp_path / "answer.jsonl"
    with connected(tokenizer) as (client, transport):
        stream = client.stream(PROMPT, max_tokens=30, stop_tokens=(), save=path)
        first = [next(stream) for _ in range(9)]
        transport.kill()  # as if the process were gone: not even the goodbye arrives
        stream.close()
        transport.heal()
        again = client.resume(path)
        seen = max(len(first), len(again.restored))
        assert list(again.restored) == truth[: len(again.restored)]
        rest = list(again)
        assert [*again.restored, *(each.token for each in rest)] == truth
        assert len(again.restored) >= seen - 3
        assert rest[0].position == len(PROMPT) + len(again.restored)
        finished = client.resume(path)
        assert (list(finished), finished.finish, list(finished.restored)) == ([], "length", truth)
        assert again.restored_text + "".join(each.text for each in rest) == finished.restored_text
    with connected(tokenizer, model="another") as (client, _), pytest.raises(ModelChanged, match="another"):
        client.resume(path)


def test_a_text_from_an_exit_says_so_of_every_token_and_is_taken_up_only_there(tokenizer: Tokenizer, tmp_path: Path):
    path = tmp_path / "answer.jsonl"
    with connected(tokenizer, lossy_exit=3) as (client, _):
        whole = client.generate(PROMPT, max_tokens=12, stop_tokens=(), lossy=True)
        assert list(whole.tokens) == continuation(PROMPT, GREEDY, 12)  # of what the server takes for its model
        assert set(whole.origins) == {"exit"}
        stream = client.stream(PROMPT, max_tokens=12, stop_tokens=(), lossy=True, save=path)
        begun = [next(stream) for _ in range(4)]
        stream.close()
        again = client.resume(path)
        rest = list(again)
        assert {each.origin for each in (*begun, *rest)} == {"exit"}
        assert [*again.restored, *(each.token for each in rest)] == list(whole.tokens)
        with pytest.raises(UsageError, match="--lossy"):
            client.stream(PROMPT)
        with pytest.raises(UsageError, match="mode edge"):
            client.stream(PROMPT, mode="edge", lossy=True)
    for other in (0, 2):
        with connected(tokenizer, lossy_exit=other) as (client, _), pytest.raises(ModelChanged, match="layer 3"):
            client.resume(path)
    with connected(tokenizer) as (client, _):
        with pytest.raises(UsageError, match="serve --lossy-exit"):
            client.stream(PROMPT, lossy=True)
        assert set(client.generate(PROMPT, max_tokens=4).origins) == {"target"}
        assert client.link is not None
        client.link.welcome = None
        with pytest.raises(UsageError, match="none has answered"):
            client.stream(PROMPT, lossy=True)


def test_what_cannot_be_asked_is_said_at_once(tokenizer: Tokenizer, tmp_path: Path):
    with connected(tokenizer) as (client, _):
        with pytest.raises(UsageError, match="deadline_ms"):
            client.stream(PROMPT, deadline_ms=0)
        with pytest.raises(UsageError, match="on_disconnect"):
            client.stream(PROMPT, on_disconnect="panic")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="mode edge"):
            client.stream(PROMPT, mode="edge", deadline_ms=5)
        stream = client.stream(PROMPT)
        with pytest.raises(UsageError, match="at least one"):
            stream.take(0, deadline_ms=5)
        client.drafter = None
        with pytest.raises(UsageError, match="needs a draft model"):
            client.stream(PROMPT, on_disconnect="edge")


def test_a_device_can_begin_where_there_is_no_network(tokenizer: Tokenizer):
    truth = continuation(PROMPT, GREEDY, 30)
    with real_world.serving(
        ToyTarget(vocabulary=VOCABULARY), "memory", fingerprint=tokenizer.fingerprint, model="toy"
    ) as service:
        transport = FaultyTransport(service.connect(), Faults())
        transport.kill()
        drafter = ToyDrafter(0.8)
        with pytest.raises(LinkLost):
            Client(None, drafter, tokenizer=tokenizer, transport=FaultyTransport(service.connect(), Faults(drop=1.0)),
                   connect_timeout_s=0.1)  # fmt: skip
        with Client(
            None, drafter, tokenizer=tokenizer, transport=transport, connect_timeout_s=0.1, require_server=False
        ) as client:
            stream = client.stream(PROMPT, max_tokens=30, stop_tokens=(), on_disconnect="edge")
            events = [next(stream) for _ in range(5)]
            assert all(each.provisional for each in events)
            transport.heal()
            events += stream
            assert [each.token for each in standing(events)] == truth
            assert client.welcome is not None
            assert list(client.generate(PROMPT, max_tokens=30, stop_tokens=()).tokens) == truth


@pytest.mark.parametrize("mode", ["speculate", "cloud"])
def test_two_that_take_up_copies_of_a_text_write_the_truth_or_are_told(
    tokenizer: Tokenizer, tmp_path: Path, mode: Any
) -> None:
    target = ToyTarget(vocabulary=VOCABULARY)
    paths = [tmp_path / name for name in ("text.jsonl", "copy.jsonl")]
    how: dict[str, Any] = {"mode": mode, "draft_length": 3}
    with real_world.serving(target, "memory", fingerprint=tokenizer.fingerprint) as service, ExitStack() as stack:
        first, second = (
            stack.enter_context(
                Client(
                    None, ToyDrafter(skill), tokenizer=tokenizer, transport=FaultyTransport(service.connect(), Faults())
                )
            )
            for skill in (0.8, 0.3)
        )
        stream = first.stream(PROMPT, max_tokens=2000, stop_tokens=(), save=paths[0], **how)
        before = [next(stream).token for _ in range(4)]
        stream.close()
        shutil.copy(*paths)
        one, two = first.resume(paths[0], **how), second.resume(paths[1], **how)
        written = [[*stream.restored] for stream in (one, two)]
        written[0] += [next(one).token for _ in range(5)]
        written[1] += [next(two).token for _ in range(5)]
        with pytest.raises(TakenOver, match="take the text up again"):
            written[0] += [event.token for event in one]
        written[1] += [next(two).token for _ in range(40)]
        two.close()
    for each in written:
        assert each[: len(before)] == before
        assert each == continuation(PROMPT, GREEDY, len(each))


class Echoing(FaultyTransport):
    """Hears the verdict of an earlier text's round before that of its own round of the same number."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner, Faults())
        self.epochs: list[int] = []
        self._heard: dict[int, Verdict] = {}
        self._echo: list[Verdict] = []

    def send(self, message: EdgeMessage) -> None:
        super().send(message)
        if isinstance(message, Open | Resume):
            self.epochs.append(message.epoch)
        elif isinstance(message, Draft) and message.round in self._heard:
            self._echo.append(self._heard[message.round])

    def receive(self, timeout_s: float) -> CloudMessage | None:
        if self._echo:
            return self._echo.pop()
        message = super().receive(timeout_s)
        if isinstance(message, Verdict):
            self._heard[message.round] = message
        return message


def test_copies_of_a_text_taken_up_by_one_client_are_in_epochs_of_their_own(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("text.jsonl", "copy.jsonl", "third.jsonl")]
    truth = continuation(PROMPT, GREEDY, 40)
    with real_world.serving(
        ToyTarget(vocabulary=VOCABULARY), "memory", fingerprint=tokenizer.fingerprint, model="toy"
    ) as service:
        transport = Echoing(service.connect())
        with Client(None, ToyDrafter(0.8), tokenizer=tokenizer, transport=transport) as client:
            stream = client.stream(PROMPT, max_tokens=40, stop_tokens=(), save=paths[0], draft_length=3)
            begun = [next(stream).token for _ in range(4)]
            stream.close()
            for path in paths[1:]:
                shutil.copy(paths[0], path)
            for path, skill in zip(paths, (0.8, 0.3, 0.1), strict=True):
                client.drafter = ToyDrafter(skill)
                again = client.resume(path, mode="speculate", draft_length=3)
                written = [*again.restored, *(next(again).token for _ in range(12))]
                again.close()
                assert written == [*begun, *truth[len(begun) :]][: len(written)]
    assert len(set(transport.epochs)) == len(transport.epochs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": ""},
        {"prompt": "  "},
        {"prompt": None},
        {"prompt": 5},
        {"prompt": b"abc"},
        {"prompt": ["hello"]},
        {"prompt": [1.7, 2]},
        {"prompt": [2**31]},
        {"prompt": [-1]},
        {"prompt": [{"content": "no role"}]},
        {"stop_tokens": [-1]},
        {"stop_tokens": range(300)},
        {"temperature": 1.0, "seed": 1.5},
        {"temperature": "1"},
        {"max_tokens": 1.5},
        {"max_tokens": 2**33},
        {"deadline_ms": float("inf")},
        {"deadline_ms": float("nan")},
        {"deadline_ms": "soon"},
    ],
)
def test_what_a_program_gets_wrong_is_said_in_one_line(tokenizer: Tokenizer, wrong: dict[str, Any], tmp_path: Path):
    with connected(tokenizer) as (client, _):
        with pytest.raises(UsageError):
            client.stream(**{"prompt": PROMPT, "save": tmp_path / "text", **wrong})
        assert not list(tmp_path.iterdir())
        assert client.generate(PROMPT, max_tokens=2, stop_tokens=(), deadline_ms=1e300).finish == "length"


def test_a_text_that_was_refused_or_never_begun_leaves_no_file_and_nothing_locked(tokenizer: Tokenizer, tmp_path: Path):
    path = str(tmp_path / "text")
    with connected(tokenizer) as (client, _):
        drafter, client.drafter = client.drafter, None
        with pytest.raises(UsageError, match="needs a draft model"):
            client.stream(PROMPT, save=path, on_disconnect="edge")
        client.drafter = drafter
        client.stream(PROMPT, save=path).close()
        assert not list(tmp_path.iterdir())
        stop = client.generate(PROMPT, max_tokens=9, stop_tokens=()).tokens[5]
        whole = client.generate(PROMPT, max_tokens=9, stop_tokens=(stop,), save=path)
        assert whole.finish == "stop"
        assert client.resume(path).restored_text == whole.text
        with pytest.raises(UsageError, match="exists"):
            client.stream(PROMPT, save=path)


def test_alone_a_prompt_that_is_too_long_or_a_draft_without_a_word_is_said(tokenizer: Tokenizer):
    class Short(ToyDrafter):
        context = 8

    with connected(tokenizer) as (client, _):
        client.drafter = Short(0.8)
        with pytest.raises(PromptTooLong, match="context is 8"):
            client.generate([1] * 8, mode="edge")
        client.drafter = NgramDrafter()
        with pytest.raises(UsageError, match="nothing to say"):
            client.generate(PROMPT, mode="edge")
        generation = client.generate([*range(1, 9)] * 3, mode="edge", max_tokens=500, stop_tokens=())
        assert generation.finish == "length"


def test_who_goes_on_alone_already_is_not_advised_to(tokenizer: Tokenizer):
    with connected(tokenizer) as (client, transport):
        transport.kill()
        stream = client.stream(PROMPT, on_disconnect="edge")
        with pytest.raises(DeadlineMissed) as caught:
            stream.take(8, deadline_ms=0.001)
        assert "on_disconnect" not in str(caught.value)
        stream.close()


@pytest.mark.parametrize("lost", [False, True])
def test_cancelling_stops_the_writing(tokenizer: Tokenizer, lost: bool):
    class SlowToyTarget(ToyTarget):
        def verify(self, *arguments: Any, **options: Any) -> Any:
            time.sleep(0.01)
            return super().verify(*arguments, **options)

    async def main(transport: FaultyTransport) -> None:
        async with AsyncClient(None, ToyDrafter(0.8), tokenizer=tokenizer, transport=transport) as client:

            async def read() -> None:
                async for event in client.stream(PROMPT, max_tokens=3000, stop_tokens=()):
                    if event.position == 20:
                        transport.kill()

            begun = time.monotonic()
            endless = read() if lost else client.generate(PROMPT, max_tokens=3000, stop_tokens=(), mode="cloud")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(endless, 0.6)
            transport.heal()
            generation = await client.generate(PROMPT, max_tokens=4, stop_tokens=())
            assert list(generation.tokens) == continuation(PROMPT, GREEDY, 4)
            assert time.monotonic() - begun < 5.0

    with real_world.serving(
        SlowToyTarget(vocabulary=VOCABULARY), "memory", fingerprint=tokenizer.fingerprint, model="toy"
    ) as service:
        asyncio.run(main(FaultyTransport(service.connect(), Faults())))
