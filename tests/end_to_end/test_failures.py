"""When something is missing, wrong, or dies: a typed error in one line before the deadline, and nobody else suffers.

Real sockets, and a toy target behind them; real processes where a process is what dies.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import real_world
from toy_world import VOCABULARY, ToyDrafter, continuation

from foredraft_cloud.toy import ToyPass, ToyTarget
from foredraft_edge import AsyncClient, Client
from foredraft_edge.options import LoopOptions
from foredraft_shared.errors import (
    AddressInUse,
    ForedraftError,
    LinkLost,
    PromptTooLong,
    ProtocolMismatch,
    UsageError,
    VocabularyMismatch,
)
from foredraft_shared.messages import SamplingParams
from foredraft_shared.models import Tokenizer
from foredraft_shared.transports.link import LinkEmulator
from foredraft_shared.transports.zmq import ZmqListener

pytestmark = pytest.mark.timeout(60)
PROMPT = (3, 1, 4, 1, 5)
GREEDY = SamplingParams()
IMPATIENT = LoopOptions(timeout_s=1.5)


class SlowToyTarget(ToyTarget):
    """A pass takes a while, so that something can happen in the middle of a text."""

    def __init__(self, pass_s: float = 0.02, **how: Any) -> None:
        super().__init__(vocabulary=VOCABULARY, **how)
        self._pass_s = pass_s

    def verify(self, batch: Any, *, exits: bool = True) -> ToyPass:
        time.sleep(self._pass_s)
        return super().verify(batch, exits=exits)


class BrokenToyTarget(ToyTarget):
    """Fails in its third pass, as a bug would."""

    def verify(self, batch: Any, *, exits: bool = True) -> ToyPass:
        if self.passes == 2:
            raise ZeroDivisionError("a bug")
        return super().verify(batch, exits=exits)


@pytest.fixture(scope="module")
def tokenizer(smollm2: Any) -> Tokenizer:
    return smollm2.tokenizer  # type: ignore[no-any-return]


@contextmanager
def client(address: str, tokenizer: Tokenizer, **how: Any) -> Iterator[Client]:
    drafter = ToyDrafter(0.8)
    with Client(address, drafter, tokenizer=tokenizer, **{"connect_timeout_s": 5.0, **how}) as made:
        yield made


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"tcp://127.0.0.1:{taken.getsockname()[1]}"


def one_line(error: BaseException) -> str:
    text = str(error)
    assert text
    assert "\n" not in text
    return text


@pytest.fixture(scope="module")
def served(tokenizer: Tokenizer) -> Callable[..., Any]:
    """Makes servers of a toy target, whose tokens are the first ids of a real tokenizer."""

    def serve(target: ToyTarget | None = None, **how: Any) -> Any:
        return real_world.serving(target or SlowToyTarget(), fingerprint=tokenizer.fingerprint, model="toy", **how)

    return serve


# --- before the first token ------------------------------------------------------------------------------------------


def test_nobody_there(tokenizer: Tokenizer):
    begun = time.monotonic()
    with pytest.raises(LinkLost) as caught, client(free_address(), tokenizer, connect_timeout_s=0.7):
        pass
    assert "foredraft serve" in one_line(caught.value)
    assert time.monotonic() - begun < 3.0


def test_somebody_else_there(tokenizer: Tokenizer):
    """A port that accepts and says nothing, as of another program."""
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(LinkLost) as caught,
        client(f"tcp://127.0.0.1:{other.getsockname()[1]}", tokenizer, connect_timeout_s=0.7),
    ):
        pass
    one_line(caught.value)


def test_port_in_use(served: Callable[..., Any]):
    with served() as service:
        with pytest.raises(AddressInUse) as caught:
            ZmqListener(service.address)
        assert "--bind" in one_line(caught.value)


def test_port_in_use_by_the_command(tmp_path: Path, served: Callable[..., Any]):
    with served() as service:
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "foredraft_shared", "serve", "smollm2-135m", "--bind", service.address],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert done.returncode not in (0, -signal.SIGTERM)
    assert "Traceback" not in done.stderr
    assert "another process listens" in " ".join(done.stderr.split())
    assert time.monotonic() - begun < 50


def test_another_tokenizer_is_refused(tokenizer: Tokenizer):
    with (
        real_world.serving(SlowToyTarget(), fingerprint="f00d" * 8, model="other") as service,
        pytest.raises(VocabularyMismatch) as caught,
        client(service.address, tokenizer),
    ):
        pass
    assert "f00d" in one_line(caught.value)
    assert tokenizer.fingerprint[:8] in str(caught.value)


@pytest.mark.parametrize("draft", ["smollm2-135m", "own"])
def test_a_server_that_answers_late_is_looked_at_before_its_tokens_are_believed(tokenizer: Tokenizer, draft: str):
    address = free_address()
    drafter: Any = ToyDrafter(0.8) if draft == "own" else draft
    how: dict[str, Any] = {"connect_timeout_s": 0.1, "require_server": False}
    with Client(address, drafter, tokenizer=None if draft != "own" else tokenizer, **how) as device:
        stream = device.stream(PROMPT, max_tokens=400, stop_tokens=(), on_disconnect="edge")
        assert all(next(stream).provisional for _ in range(3))
        with real_world.serving(SlowToyTarget(), bind=address, fingerprint="f00d" * 8, model="other"):
            final = []
            with pytest.raises(VocabularyMismatch) as caught:
                final = [event for event in stream if not event.provisional]
            assert not final
            one_line(caught.value)
            with pytest.raises(VocabularyMismatch):  # nor is the next text written with it
                device.generate(PROMPT, max_tokens=5)


def test_a_text_that_does_not_fit_a_server_that_answers_late_says_so(tokenizer: Tokenizer):
    address = free_address()
    with client(address, tokenizer, connect_timeout_s=0.1, require_server=False) as device:
        stream = device.stream(PROMPT, max_tokens=100_000, stop_tokens=(), on_disconnect="edge")
        next(stream)
        with (
            real_world.serving(SlowToyTarget(), bind=address, fingerprint=tokenizer.fingerprint, model="toy"),
            pytest.raises(PromptTooLong, match="context is"),
        ):
            list(stream)


@pytest.mark.parametrize("model", ["../models/big", "tests", "somebody/something"])
def test_a_model_is_not_opened_because_a_server_named_it(model: str):
    with real_world.serving(SlowToyTarget(), fingerprint="f00d" * 8, model=model) as service:
        for draft in ("auto", None):
            with pytest.raises(UsageError, match="--tokenizer") as caught:
                Client(service.address, draft)
            assert model not in one_line(caught.value)


def test_a_closed_client_says_so(tokenizer: Tokenizer, served: Callable[..., Any], tmp_path: Path):
    with served() as service:
        device = Client(service.address, "smollm2-135m")
        stream = device.stream(PROMPT, max_tokens=5)
        device.generate(PROMPT, max_tokens=3, mode="cloud", save=tmp_path / "text")
        device.close()
        device.close()
        with pytest.raises(UsageError, match="closed"):
            device.generate(PROMPT, max_tokens=3)
        with pytest.raises(UsageError, match="closed"):
            device.resume(tmp_path / "text")
        with pytest.raises(UsageError, match="closed"):
            next(stream)


def test_another_version_of_the_protocol_is_refused(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, served: Callable[..., Any]
):
    with served() as service:
        monkeypatch.setattr("foredraft_edge.link.PROTOCOL_VERSION", 99)
        with pytest.raises(ProtocolMismatch) as caught, client(service.address, tokenizer):
            pass
    one_line(caught.value)


def test_a_prompt_too_long_and_other_wrong_requests(tokenizer: Tokenizer, served: Callable[..., Any]):
    with served(SlowToyTarget(context=64)) as service, client(service.address, tokenizer) as device:
        wrong: list[tuple[type[ForedraftError], dict[str, Any]]] = [
            (PromptTooLong, {"prompt": PROMPT * 12, "max_tokens": 8}),
            (UsageError, {"prompt": ()}),
            (UsageError, {"prompt": PROMPT, "max_tokens": 0}),
            (UsageError, {"prompt": (1, VOCABULARY + 7), "max_tokens": 4}),
            (UsageError, {"prompt": (1, -7), "max_tokens": 4}),
            (UsageError, {"prompt": PROMPT, "mode": "telepathy"}),
            (ForedraftError, {"prompt": PROMPT, "max_tokens": 4, "temperature": -1.0}),
            (ForedraftError, {"prompt": PROMPT, "max_tokens": 4, "top_p": 0.0}),
        ]
        for kind, request in wrong:
            with pytest.raises(kind) as caught:
                device.generate(**request, stop_tokens=())
            one_line(caught.value)
        # None of it spoils the connection.
        assert list(device.generate(PROMPT, max_tokens=9, stop_tokens=()).tokens) == continuation(PROMPT, GREEDY, 9)


# --- in the middle ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["speculate", "cloud"])
def test_server_stopped_in_the_middle(tokenizer: Tokenizer, mode: str, served: Callable[..., Any]):
    with served() as service, client(service.address, tokenizer) as device:
        stream = device.stream(PROMPT, max_tokens=2000, mode=mode, options=IMPATIENT, stop_tokens=())
        written = [next(stream).token for _ in range(5)]
        service.server.stop()
        begun = time.monotonic()
        with pytest.raises(LinkLost) as caught:
            written.extend(event.token for event in stream)
        one_line(caught.value)
        assert time.monotonic() - begun < 6.0
        assert written == continuation(PROMPT, GREEDY, len(written))


@pytest.mark.parametrize("mode", ["speculate", "cloud", "auto"])
def test_server_restarted_in_the_middle(tokenizer: Tokenizer, mode: str, served: Callable[..., Any]):
    address = free_address()
    with client_of_two_servers(served, address, tokenizer) as (device, restart):
        stream = device.stream(PROMPT, max_tokens=40, mode=mode, stop_tokens=())
        written = [next(stream).token for _ in range(8)]
        restart()
        written += [event.token for event in stream]
        assert written == continuation(PROMPT, GREEDY, 40)
        assert stream.statistics.resumes >= 1
        # The connection serves the next text, too.
        assert list(device.generate(PROMPT, max_tokens=9, stop_tokens=()).tokens) == continuation(PROMPT, GREEDY, 9)


@contextmanager
def client_of_two_servers(
    served: Callable[..., Any], address: str, tokenizer: Tokenizer
) -> Iterator[tuple[Client, Any]]:
    """A client of a server that a call of ``restart`` ends and starts again at the same address."""
    first = served(bind=address)
    first.__enter__()
    running = [first]

    def restart() -> None:
        running.pop().__exit__(None, None, None)
        second = served(bind=address)
        second.__enter__()
        running.append(second)

    try:
        with client(address, tokenizer) as device:
            yield device, restart
    finally:
        for server in running:
            server.__exit__(None, None, None)


@pytest.mark.parametrize("what", ["reset", "stall", "black_hole"])
def test_link_broken_for_a_moment(tokenizer: Tokenizer, what: str, served: Callable[..., Any]):
    with (
        served() as service,
        LinkEmulator(service.address, rtt_ms=4.0) as link,
        client(link.address, tokenizer) as device,
    ):
        stream = device.stream(PROMPT, max_tokens=40, mode="speculate", stop_tokens=())
        written = [next(stream).token for _ in range(8)]
        if what == "reset":
            link.reset()
        elif what == "stall":
            link.stall(0.6)
        else:
            link.black_hole()
            threading.Timer(0.6, link.heal).start()
        written += [event.token for event in stream]
        assert written == continuation(PROMPT, GREEDY, 40)


def test_a_bug_in_the_model_ends_the_server_and_no_device_hangs(tokenizer: Tokenizer, served: Callable[..., Any]):
    with (
        pytest.raises(ZeroDivisionError),
        served(BrokenToyTarget(vocabulary=VOCABULARY)) as service,
        client(service.address, tokenizer) as device,
        pytest.raises(LinkLost),
    ):
        device.generate(PROMPT, max_tokens=200, draft_length=1, options=IMPATIENT, stop_tokens=())


# --- devices come and go ---------------------------------------------------------------------------------------------


def test_two_clients_at_once(tokenizer: Tokenizer, served: Callable[..., Any]):
    sampled = SamplingParams(0.8, top_p=0.95, seed=5)
    with served() as service, ThreadPoolExecutor(2) as threads:

        def write(prompt: tuple[int, ...]) -> list[int]:
            with client(service.address, tokenizer) as device:
                written = device.generate(prompt, max_tokens=40, temperature=0.8, top_p=0.95, seed=5, stop_tokens=())
                return list(written.tokens)

        texts = list(threads.map(write, [PROMPT, (9, 9)]))
    assert texts == [continuation(PROMPT, sampled, 40), continuation((9, 9), sampled, 40)]


def test_a_text_left_in_the_middle_is_forgotten_by_the_server(tokenizer: Tokenizer, served: Callable[..., Any]):
    with served() as service, client(service.address, tokenizer) as device:
        for mode in ("speculate", "cloud", "auto"):
            stream = device.stream(PROMPT, max_tokens=3000, mode=mode, stop_tokens=())
            next(stream)
            stream.close()
            assert list(stream) == []
        written = device.generate(PROMPT, max_tokens=9, stop_tokens=())
        assert list(written.tokens) == continuation(PROMPT, GREEDY, 9)
        deadline = time.monotonic() + 5.0
        while service.server._engine.sessions and time.monotonic() < deadline:
            time.sleep(0.01)
        assert service.server._engine.sessions == 0


def test_a_second_text_in_the_same_thread_does_not_wait_for_the_first_for_ever(
    tokenizer: Tokenizer, served: Callable[..., Any]
):
    with served() as service, client(service.address, tokenizer) as device:
        first = device.stream(PROMPT, max_tokens=20, stop_tokens=())
        begun = [next(first).token]
        with pytest.raises(UsageError, match="in the middle of another text"):
            device.generate((9, 9), max_tokens=5, stop_tokens=())
        assert begun + [event.token for event in first] == continuation(PROMPT, GREEDY, 20)


def test_texts_from_several_threads_take_turns(tokenizer: Tokenizer, served: Callable[..., Any]):
    with (
        served(SlowToyTarget(0.002)) as service,
        client(service.address, tokenizer) as device,
        ThreadPoolExecutor(3) as pool,
    ):
        texts = pool.map(lambda first: list(device.generate((first,), max_tokens=9, stop_tokens=()).tokens), range(3))
        assert list(texts) == [continuation((first,), GREEDY, 9) for first in range(3)]


def test_asyncio(tokenizer: Tokenizer, served: Callable[..., Any]):
    async def both(address: str) -> list[int]:
        async with AsyncClient(address, ToyDrafter(), tokenizer=tokenizer) as device:
            async for _ in device.stream(PROMPT, max_tokens=500, stop_tokens=()):
                break  # left early
            texts = await asyncio.gather(
                *(device.generate((first,), max_tokens=9, stop_tokens=()) for first in range(2))
            )
            assert [list(text.tokens) for text in texts] == [continuation((first,), GREEDY, 9) for first in range(2)]
            return [event.token async for event in device.stream(PROMPT, max_tokens=9, stop_tokens=())]

    with served(SlowToyTarget(0.002)) as service:
        assert asyncio.run(both(service.address)) == continuation(PROMPT, GREEDY, 9)


KILLED = """
import json, os, sys
sys.path.insert(0, sys.argv[2])
from foredraft_edge.link import Link
from foredraft_edge.loop import RoundLoop
from foredraft_edge.planner import FixedPlanner
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import SamplingParams
from foredraft_shared.transports.zmq import ZmqTransport
from toy_world import ToyDrafter
link = Link(ZmqTransport(sys.argv[1]), where="the server")
link.greet()
loop = RoundLoop(link, Ledger(os.urandom(16), (1, 2, 3)), ToyDrafter(), FixedPlanner(4), SamplingParams(), max_tokens=3000)
for commit in loop.run():
    print(json.dumps(commit.tokens), flush=True)
"""


def test_a_client_that_is_killed_harms_nobody(tokenizer: Tokenizer, served: Callable[..., Any]):
    with served(SlowToyTarget(0.02)) as service, client(service.address, tokenizer) as device:
        stream = device.stream(PROMPT, max_tokens=60, stop_tokens=())
        written = [next(stream).token]
        killed = subprocess.Popen(
            [sys.executable, "-c", KILLED, service.address, str(Path(__file__).parents[1])],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert killed.stdout is not None
        with killed.stdout:
            text = [token for _ in range(3) for token in json.loads(killed.stdout.readline())]
            killed.kill()
            killed.wait(10)
        assert text == continuation((1, 2, 3), GREEDY, len(text))
        written += [event.token for event in stream]
        assert written == continuation(PROMPT, GREEDY, 60)
        again = device.generate((7,), max_tokens=9, stop_tokens=())
        assert list(again.tokens) == continuation((7,), GREEDY, 9)
