"""The server is gone: wait, go on alone, or fail; and deadlines. Over a toy cloud, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_world import ToyDrafter, World, Writer, continuation

from foredraft_cloud.engine import EngineOptions
from foredraft_edge.conversation import OnDisconnect
from foredraft_edge.options import LoopOptions
from foredraft_edge.planner import FixedPlanner
from foredraft_edge.watch import SessionState
from foredraft_shared.errors import DeadlineMissed, LinkLost, Overloaded
from foredraft_shared.messages import Draft, EdgeMessage, SamplingParams
from foredraft_shared.transports.faulty import Faults, FaultyTransport

PROMPT = (3, 1, 4, 1, 5)
GREEDY = SamplingParams()
LAN = Faults(delay_s=(0.001, 0.001))


class Scene:
    """A device that writes over a link that can be cut."""

    def __init__(
        self,
        on_disconnect: OnDisconnect = "edge",
        *,
        mode: str = "speculate",
        skill: float = 0.8,
        tokens: int = 60,
        params: SamplingParams = GREEDY,
        faults: Faults = LAN,
        timeout_s: float = 30.0,
        options: EngineOptions | None = None,
        deadline_s: float | None = None,
        window: int = 2,
    ) -> None:
        self.world = World(pass_s=0.02, faults=faults, options=options)
        self.transport: FaultyTransport = self.world.transport()
        self.truth = continuation(PROMPT, params, tokens)
        self.writer: Writer = self.world.writer(
            PROMPT,
            params,
            ToyDrafter(skill, clock=self.world.clock, token_s=0.004),
            FixedPlanner(0, "cloud") if mode == "cloud" else FixedPlanner(4),
            max_tokens=tokens,
            options=LoopOptions(timeout_s=timeout_s, on_disconnect=on_disconnect, window=window),
            transport=self.transport,
            deadline_ns=None if deadline_s is None else round(deadline_s * 1e9),
        )

    @property
    def now(self) -> float:
        return self.world.clock.now()

    def write_until(self, tokens: int) -> None:
        while len(self.writer.text) < tokens:
            assert self.writer.step()

    def write_alone_until(self, end: float) -> None:
        """Go on until the clock shows ``end``."""
        while self.now < end:
            assert self.writer.step()


@pytest.mark.parametrize("mode", ["speculate", "cloud"])
@pytest.mark.parametrize("params", [GREEDY, SamplingParams(0.8, seed=3)])
def test_with_edge_the_draft_model_goes_on_within_a_second_and_the_law_is_restored(mode, params):
    scene = Scene(mode=mode, params=params, tokens=120)
    scene.write_until(10)
    cut_at, committed = scene.now, len(scene.writer.text)
    scene.transport.kill()
    while not scene.writer.provisional:
        assert scene.writer.step()
    assert scene.now - cut_at < 1.0
    assert scene.writer.loop.state is SessionState.EDGE_ONLY
    scene.write_alone_until(scene.now + 0.1)
    assert len(scene.writer.provisional) > 10
    committed = len(scene.writer.text)
    scene.transport.heal()
    healed_at = scene.now
    while len(scene.writer.text) == committed:
        assert scene.writer.step()
    assert scene.now - healed_at < 1.0
    assert scene.writer.loop.state is SessionState.ACTIVE
    assert scene.writer.write() == scene.truth
    assert not scene.writer.provisional
    statistics = scene.writer.loop.statistics
    assert statistics.outages == 1
    assert 0 < statistics.revised < statistics.provisional


def test_a_stream_that_the_server_wrote_on_meanwhile_is_told_from_where_it_broke_off():
    scene = Scene("wait", mode="cloud", tokens=400)
    scene.write_until(10)
    scene.transport.kill()
    work = scene.world.network.while_waiting
    assert work is not None

    def heal_after_a_while() -> bool:
        if scene.now > 8.0:
            scene.transport.heal()
        return work()

    scene.world.network.while_waiting = heal_after_a_while
    assert scene.writer.write() == scene.truth


def test_what_was_written_alone_and_right_is_verified_many_tokens_a_pass():
    scene = Scene(skill=1.0, tokens=120)
    scene.write_until(10)
    scene.transport.kill()
    while len(scene.writer.provisional) < 90:
        assert scene.writer.step()
    scene.transport.heal()
    rounds = scene.writer.loop.statistics.rounds
    assert scene.writer.write() == scene.truth
    assert scene.writer.loop.statistics.rounds - rounds < 10
    assert scene.writer.loop.statistics.revised == 0


def test_a_server_that_starts_anew_meanwhile_is_given_the_text():
    scene = Scene(tokens=600)
    scene.write_until(10)
    scene.world.stop()
    scene.write_alone_until(scene.now + 1.0)
    scene.world.start()
    assert scene.writer.write() == scene.truth
    assert scene.writer.loop.statistics.resumes >= 1


def test_a_text_that_the_edge_ends_alone_ends_provisionally_once_the_server_is_given_up():
    scene = Scene(timeout_s=5.0, tokens=40)
    scene.write_until(10)
    scene.transport.kill()
    cut_at = scene.now
    final = list(scene.writer.write())
    assert scene.writer.loop.finish == "length"
    assert final == scene.truth[: len(final)]
    assert len(final) + len(scene.writer.provisional) == 40
    assert 5.0 <= scene.now - cut_at < 6.5


def test_without_a_whole_text_of_its_own_a_lost_server_is_an_error():
    scene = Scene("wait", timeout_s=5.0)
    scene.write_until(10)
    scene.transport.kill()
    with pytest.raises(LinkLost, match="silent"):
        scene.writer.write()
    assert not scene.writer.provisional


def test_with_fail_a_lost_server_is_an_error_at_once():
    scene = Scene("fail")
    scene.write_until(10)
    cut_at = scene.now
    scene.transport.kill()
    with pytest.raises(LinkLost, match="does not answer"):
        scene.writer.write()
    assert scene.now - cut_at < 1.0


def test_with_fail_a_server_that_is_merely_slow_is_waited_for():
    scene = Scene("fail", tokens=12)
    scene.write_until(4)
    scene.world.pass_s = 3.0
    assert scene.writer.write() == scene.truth


def test_a_slow_server_does_not_keep_an_edge_that_can_go_on_alone():
    scene = Scene(tokens=100)
    scene.write_until(4)
    scene.world.pass_s = 5.0
    while not scene.writer.provisional:
        assert scene.writer.step()
    scene.world.pass_s = 0.02
    assert scene.writer.write() == scene.truth


def test_a_prompt_that_takes_longer_to_read_than_the_timeout_is_waited_for():
    scene = Scene("wait", timeout_s=5.0, tokens=8)
    scene.world.pass_s = 20.0
    assert scene.writer.write() == scene.truth


def test_a_refusal_with_a_time_is_waited_out():
    scene = Scene("wait", options=EngineOptions(max_sessions=1), tokens=20, faults=Faults())
    scene.write_until(5)
    other = scene.world.writer(PROMPT, GREEDY, None, FixedPlanner(0), max_tokens=6)
    work = scene.world.network.while_waiting
    assert work is not None

    def leave_after_a_while() -> bool:
        if scene.now > 3.0:
            scene.writer.leave()
        return work()

    scene.world.network.while_waiting = leave_after_a_while
    assert other.write() == scene.truth[:6]
    assert 3.0 < scene.now < 8.0


def test_with_fail_a_refusal_is_an_error_at_once():
    scene = Scene(options=EngineOptions(max_sessions=1))
    scene.write_until(5)
    options = LoopOptions(on_disconnect="fail")
    with pytest.raises(Overloaded):
        scene.world.writer(PROMPT, GREEDY, None, FixedPlanner(0), options=options).write()


# --- deadlines


def test_at_its_deadline_a_text_ends_with_what_there_is():
    scene = Scene("wait", deadline_s=0.5, tokens=2000)
    text = scene.writer.write()
    assert scene.writer.loop.finish == "deadline"
    assert text == scene.truth[: len(text)]
    assert len(text) > 5
    assert scene.now <= 0.52


@pytest.mark.parametrize("on_disconnect", ["wait", "edge"])
def test_a_deadline_holds_while_the_server_is_gone(on_disconnect):
    scene = Scene(on_disconnect, deadline_s=2.0, tokens=2000)
    scene.write_until(10)
    scene.transport.kill()
    text = scene.writer.write()
    assert scene.writer.loop.finish == "deadline"
    assert scene.now <= 2.02
    assert text == scene.truth[: len(text)]
    assert bool(scene.writer.provisional) == (on_disconnect == "edge")


def test_nothing_at_all_by_the_deadline_is_an_error():
    scene = Scene("wait", deadline_s=0.5)
    scene.transport.kill()
    with pytest.raises(DeadlineMissed):
        scene.writer.write()
    assert scene.now <= 0.52


def test_the_server_is_told_how_much_time_is_left():
    scene = Scene("wait", deadline_s=1.0, faults=Faults())
    told: list[int] = []
    put = scene.transport.send

    def overhear(message: EdgeMessage) -> None:
        if isinstance(message, Draft):
            told.append(message.deadline_ms)
        put(message)

    scene.transport.send = overhear  # type: ignore[method-assign]
    scene.writer.write()
    assert told[0] == 1000
    assert 0 < told[-1] < 1000
    assert told == sorted(told, reverse=True)


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    on_disconnect=st.sampled_from(["wait", "edge"]),
    count=st.integers(1, 12),
    step_s=st.sampled_from([0.02, 0.15, 0.5]),
    seed=st.integers(0, 1000),
    faults=st.sampled_from(
        [
            LAN,
            Faults(drop=0.2),
            Faults(kill=0.1, kill_s=(0.5, 3.0)),
            Faults(kill=0.1, loud=True),
            Faults(delay_s=(0.3, 0.3)),
        ]
    ),
)
def test_steps_end_by_their_deadline_and_the_text_is_the_law_s(on_disconnect, count, step_s, seed, faults):
    world = World(pass_s=0.02, faults=faults, seed=seed)
    drafter = ToyDrafter(clock=world.clock, token_s=0.004)
    options = LoopOptions(timeout_s=600.0, on_disconnect=on_disconnect)
    writer = world.writer(PROMPT, GREEDY, drafter, FixedPlanner(4), max_tokens=40, options=options)
    for _ in range(4000):
        begun = world.clock.now()
        known = len(writer.text) + len(writer.provisional)
        writer.loop.step(writer.ledger.prompt_length + known + count, round((begun + step_s) * 1e9))
        while writer.step():
            at, commit = writer.commits[-1]
            assert commit.tokens or at >= begun + step_s - 1e-6, "given up before the deadline"
            if not commit.tokens or len(writer.text) + len(writer.provisional) >= known + count:
                break
        assert world.clock.now() - begun <= step_s + 0.02
        if writer.loop.finish:
            break
        world.clock.advance(0.01)  # the caller's own work
    assert writer.text == continuation(PROMPT, GREEDY, 40)


@pytest.mark.parametrize("on_disconnect", ["wait", "edge"])
def test_a_long_stream_that_the_cloud_ended_unheard_is_told_from_where_the_device_stands(on_disconnect: OnDisconnect):
    world = World(pass_s=0.02)
    transport = world.transport()
    writer = world.writer(
        PROMPT, GREEDY, ToyDrafter(0.8), FixedPlanner(0, "cloud"), max_tokens=200, transport=transport,
        options=LoopOptions(on_disconnect=on_disconnect),
    )  # fmt: skip
    while len(writer.text) < 60:  # more than a server tells again of what it has told before
        writer.step()
    transport.kill(5.0)  # the cloud goes on meanwhile, to the end
    while writer.step():
        pass
    final = [token for _, commit in writer.commits if not commit.provisional for token in commit.tokens]
    assert final == continuation(PROMPT, GREEDY, 200)
    assert world.clock.now() < 20.0


def test_a_text_that_the_device_completes_after_the_patience_has_ended_is_told_to_its_end():
    world = World(pass_s=0.04)
    drafter = ToyDrafter(0.8, clock=world.clock, token_s=2.0)
    writer = world.writer(
        PROMPT, GREEDY, drafter, FixedPlanner(4), max_tokens=24, options=LoopOptions(on_disconnect="edge")
    )
    assert writer.step()
    world.stop()
    writer.write()
    assert writer.loop.finish == writer.commits[-1][1].finish == "length"
    assert len(writer.text) + len(writer.provisional) == 24
