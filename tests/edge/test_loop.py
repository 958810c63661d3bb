"""The law, over a toy cloud: whatever draft, link, planner and options do, the text is the target's own.

Single-threaded and in virtual time (see ``toy_world``): a minute of silence takes no time, and every failure repeats.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_world import VOCABULARY, ToyDrafter, World, Writer, continuation

from foredraft_cloud.engine import EngineOptions
from foredraft_edge.options import LoopOptions
from foredraft_edge.planner import AdaptivePlanner, FixedPlanner, Planner
from foredraft_shared.errors import LinkLost, Overloaded, PromptTooLong, UsageError
from foredraft_shared.messages import SamplingParams
from foredraft_shared.transports.faulty import Faults

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=7)
PROMPT = (3, 1, 4, 1, 5)
VIRTUAL_HOUR_S = 3600.0
"""No run of a few dozen tokens takes longer, however bad its link: it would hang."""

EXAMPLES = os.environ.get("LAW_EXAMPLES")
"""``make law`` sets it: as many, and others every time. An ordinary run writes the same few."""
LAW = settings(
    max_examples=int(EXAMPLES or 60),
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

tokens = st.integers(0, VOCABULARY - 1)
prompts = st.lists(tokens, min_size=1, max_size=40).map(tuple)
params = st.one_of(
    st.just(GREEDY),
    st.just(SAMPLED),
    st.builds(SamplingParams, st.just(1.0), top_k=st.integers(1, 8), seed=st.integers(0, 2**64 - 1)),
    st.builds(SamplingParams, st.floats(0.3, 1.5), min_p=st.floats(0.0, 0.3), seed=st.integers(0, 2**64 - 1)),
)
faults = st.builds(
    Faults,
    drop=st.sampled_from([0.0, 0.0, 0.05, 0.2]),
    duplicate=st.sampled_from([0.0, 0.2, 0.5]),
    delay_s=st.sampled_from([(0.0, 0.0), (0.01, 0.01), (0.0, 0.2)]),
    reorder=st.sampled_from([0.0, 0.0, 0.3]),
    reorder_s=st.sampled_from([0.05, 1.5]),
    kill=st.sampled_from([0.0, 0.0, 0.01]),
    loud=st.booleans(),
)
options = st.builds(
    LoopOptions,
    ahead=st.booleans(),
    window=st.integers(1, 3),
    chain_confidence=st.sampled_from([0.0, 0.15, 0.8]),
    hints=st.booleans(),
    timeout_s=st.just(600.0),
    on_disconnect=st.sampled_from(["wait", "edge"]),
)


@dataclass(frozen=True)
class Manner:
    """How a text is written: everything that must not matter."""

    planner: str = "4"
    skill: float = 0.8
    silent: float = 0.0
    draft_s: float = 0.004
    max_draft: int = 64
    options: LoopOptions = field(default_factory=LoopOptions)

    def make_planner(self) -> Planner:
        if self.planner == "cloud":
            return FixedPlanner(0, "cloud")
        if self.planner.startswith("adaptive"):
            return AdaptivePlanner(switch=self.planner == "adaptive", warm_up=2)
        return FixedPlanner(int(self.planner))


manners = st.builds(
    Manner,
    planner=st.sampled_from(["0", "1", "4", "8", "cloud", "adaptive", "adaptive without switching"]),
    skill=st.sampled_from([0.0, 0.5, 0.8, 0.95, 1.0]),
    silent=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
    draft_s=st.sampled_from([0.0, 0.004, 0.05]),
    max_draft=st.sampled_from([3, 64]),
    options=options,
)


def start(
    world: World, manner: Manner, prompt: tuple[int, ...] = PROMPT, params: SamplingParams = GREEDY, **limits: object
) -> Writer:
    drafter = ToyDrafter(manner.skill, silent=manner.silent, clock=world.clock, token_s=manner.draft_s)
    return world.writer(
        prompt,
        params,
        drafter,
        manner.make_planner(),
        max_draft=manner.max_draft,
        options=manner.options,
        **limits,  # type: ignore[arg-type]
    )


def check_books(writer: Writer) -> None:
    """What must hold of statistics and records after any run."""
    statistics, length = writer.loop.statistics, len(writer.text)
    assert statistics.committed == length == sum(record.committed for record in writer.records)
    assert list(writer.ledger.written) == writer.text
    assert statistics.accepted <= statistics.drafted
    assert statistics.guess_hits <= statistics.guesses
    assert statistics.chained_hits <= statistics.chained
    assert statistics.hints_right <= statistics.hints
    settled = [record for record in writer.records if record.committed]
    assert len(settled) == statistics.rounds
    for record in writer.records:
        assert record.overhead_us >= 0
        assert record.discarded >= 0
        if not record.committed:
            continue
        assert record.accepted is not None
        assert record.committed == record.accepted + 1
        assert record.accepted <= record.drafted
        times = [record.draft_began_at_us, record.draft_ended_at_us, record.sent_at_us]
        times += [hint.at_us for hint in record.hints] + [record.verdict_at_us, record.committed_at_us]
        known = [time for time in times if time is not None]
        assert known == sorted(known)
    bases = [record.base for record in settled]
    assert bases == sorted(bases)
    assert all(value >= 0 for value in dataclasses.asdict(statistics).values())


# --- the law ---------------------------------------------------------------------------------------------------------


@LAW
@given(prompts, params, manners, faults, st.integers(1, 40), st.sets(tokens, max_size=4), st.integers(0, 2**16))
def test_law_holds_over_a_faulty_link(prompt, params, manner, faults, count, stops, seed):
    world = World(
        faults=faults, seed=seed, pass_s=0.04, row_s=0.001, options=EngineOptions(prefill_rows=7, hint_confidence=0.1)
    )
    writer = start(world, manner, prompt, params, max_tokens=count, stop_tokens=tuple(stops))
    assert writer.write() == continuation(prompt, params, count, tuple(stops))
    assert world.clock.now() < VIRTUAL_HOUR_S
    check_books(writer)
    assert writer.loop.finish == ("stop" if writer.text[-1] in stops else "length")


@LAW
@given(prompts, params, manners, faults, st.lists(st.integers(1, 10), min_size=1, max_size=3), st.integers(0, 2**16))
def test_law_holds_when_the_server_restarts_in_the_middle(prompt, params, manner, faults, restarts, seed):
    world = World(faults=faults, seed=seed, pass_s=0.04)
    writer = start(world, manner, prompt, params, max_tokens=30)
    for commits in restarts:
        for _ in range(commits):
            writer.step()
        world.start()
    assert writer.write() == continuation(prompt, params, 30)
    assert world.clock.now() < VIRTUAL_HOUR_S
    check_books(writer)


@LAW
@given(st.lists(st.tuples(prompts, params, manners), min_size=2, max_size=4), faults, st.data())
def test_law_holds_for_devices_side_by_side(texts, faults, data):
    world = World(faults=faults, pass_s=0.01, options=EngineOptions(prefill_rows=7, max_rows=80))
    writers = [start(world, manner, prompt, params, max_tokens=16) for prompt, params, manner in texts]
    running = list(range(len(writers)))
    while running:
        number = data.draw(st.sampled_from(running))
        if not writers[number].step():
            running.remove(number)
    for writer, (prompt, params, _) in zip(writers, texts, strict=True):
        assert writer.text == continuation(prompt, params, 16)
        check_books(writer)
    # What is left on the server belongs to devices whose goodbye was lost, or came before a late repeat.
    if faults == Faults(delay_s=faults.delay_s, loud=faults.loud):
        world.clock.advance(1.0)
        for writer in writers:
            writer.link.receive(0.5)
        assert world.engine.sessions == 0


@LAW
@given(prompts, params, manners, st.integers(0, 12))
def test_leaving_in_the_middle_frees_the_server(prompt, params, manner, commits):
    world = World(pass_s=0.01)
    writer = start(world, manner, prompt, params, max_tokens=64)
    for _ in range(commits):
        writer.step()
    writer.leave()
    world.transport().receive(1.0)  # whoever waits lets the cloud work
    assert world.engine.sessions == 0
    assert writer.text == continuation(prompt, params, 64)[: len(writer.text)]


# --- when nobody answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commits", [0, 1, 5])
@pytest.mark.parametrize("planner", ["4", "0", "cloud", "adaptive"])
@pytest.mark.parametrize("loud", [False, True])
def test_link_lost_when_the_server_is_gone(commits, planner, loud):
    world = World(pass_s=0.01, faults=Faults(delay_s=(0.01, 0.01), loud=loud))
    manner = Manner(planner, options=LoopOptions(timeout_s=10.0))
    writer = start(world, manner, max_tokens=60)
    for _ in range(commits):
        writer.step()
    world.stop()
    gone_at = world.clock.now()
    with pytest.raises(LinkLost, match="the toy cloud has been silent") as caught:
        writer.write()
    assert "\n" not in str(caught.value)
    assert 10.0 <= world.clock.now() - gone_at < 16.0
    assert writer.text == continuation(PROMPT, GREEDY, len(writer.text))


def test_repeats_grow_rarer():
    world = World(pass_s=0.01)
    writer = start(world, Manner(options=LoopOptions(timeout_s=60.0, window=1)), max_tokens=60)
    writer.step()
    world.stop()
    with pytest.raises(LinkLost):
        writer.write()
    assert writer.loop.statistics.repeats < 25


def test_an_outage_shorter_than_the_timeout_is_survived():
    world = World(pass_s=0.01, faults=Faults(delay_s=(0.01, 0.01)))
    transport = world.transport()
    writer = world.writer(PROMPT, GREEDY, ToyDrafter(), FixedPlanner(4), max_tokens=40, transport=transport)
    writer.step()
    transport.kill(8.0)
    assert writer.write() == continuation(PROMPT, GREEDY, 40)
    assert writer.loop.statistics.repeats > 0
    assert writer.loop.statistics.resumes == 0
    assert world.clock.now() < 15.0


def test_a_server_restart_is_one_resume():
    world = World(pass_s=0.01)
    writer = start(world, Manner(), max_tokens=40)
    writer.step()
    world.start()
    assert writer.write() == continuation(PROMPT, GREEDY, 40)
    assert writer.loop.statistics.resumes == 1


def test_a_repeat_is_no_sample_of_the_round_trip():
    """Karn's algorithm: nobody knows which of two sendings was answered."""
    world = World(pass_s=0.01, faults=Faults(delay_s=(0.01, 0.01)))
    transport = world.transport()
    planner = FixedPlanner(4)
    writer = world.writer(PROMPT, GREEDY, ToyDrafter(), planner, max_tokens=60, transport=transport)
    for _ in range(4):
        writer.step()
    transport.kill(5.0)
    writer.write()
    assert planner.measured.rtt_ms.value == pytest.approx(20.0, abs=8.0)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_prompt_beyond_the_context_is_refused_by_name():
    world = World(context=32)
    with pytest.raises(PromptTooLong, match="context is 32"):
        start(world, Manner(), prompt=PROMPT * 5, max_tokens=20).write()
    assert world.engine.sessions == 0


def test_a_token_beyond_the_vocabulary_is_refused():
    with pytest.raises(UsageError, match="vocabulary of 64"):
        start(World(), Manner(), prompt=(1, 999)).write()


def test_a_full_server_says_so():
    world = World(options=EngineOptions(max_sessions=1))
    first = start(world, Manner(), max_tokens=40)
    first.step()
    with pytest.raises(Overloaded, match="try again"):
        start(world, Manner()).write()
    assert first.write() == continuation(PROMPT, GREEDY, 40)
    assert start(world, Manner()).write() == continuation(PROMPT, GREEDY, 24)


# --- time ------------------------------------------------------------------------------------------------------------


def ms_per_token(planner: str, *, skill: float = 1.0, tokens: int = 120, hints: bool = True, **how: object) -> float:
    """Over a link of 20 ms round trip, a pass of 40 ms and a draft of 4 ms a token."""
    world = World(pass_s=0.04, faults=Faults(delay_s=(0.01, 0.01)))
    manner = Manner(planner, skill, options=LoopOptions(hints=hints, **how))  # type: ignore[arg-type]
    writer = start(world, manner, max_tokens=tokens)
    assert writer.write() == continuation(PROMPT, GREEDY, tokens)
    check_books(writer)
    return world.clock.now() * 1000.0 / tokens


def test_each_idea_saves_what_the_theory_says():
    assert ms_per_token("cloud") == pytest.approx(40.0 + 20.0 / 120, rel=0.02)
    # Five tokens a round: round trip, pass and four drafted tokens.
    assert ms_per_token("4", ahead=False) == pytest.approx((20 + 40 + 16) / 5, rel=0.05)
    # Drafting has moved behind the round trip and the pass.
    assert ms_per_token("4", ahead=True, window=1, hints=False) == pytest.approx((20 + 40) / 5, rel=0.1)
    # The round trip too: the next round is on the server when the pass ends.
    assert ms_per_token("4", ahead=True, window=2, hints=False) == pytest.approx(40 / 5, rel=0.12)


@pytest.mark.parametrize("skill", [0.5, 0.8])
def test_each_idea_saves_something_with_an_ordinary_draft(skill):
    waiting, ahead, chained = (
        ms_per_token("4", skill=skill, **how)  # type: ignore[arg-type]
        for how in ({"ahead": False}, {"window": 1}, {"window": 2})
    )
    assert chained <= ahead * 1.02
    assert ahead <= waiting * 1.02


def test_measurements_are_those_of_the_world():
    world = World(pass_s=0.04, faults=Faults(delay_s=(0.01, 0.01)))
    planner = AdaptivePlanner()
    drafter = ToyDrafter(0.8, clock=world.clock, token_s=0.004)
    world.writer(PROMPT, GREEDY, drafter, planner, max_tokens=100).write()
    assert planner.measured.draft_ms.value == pytest.approx(4.0)
    assert planner.measured.decode_ms.value == pytest.approx(40.0)
    assert planner.measured.verify_ms.value == pytest.approx(40.0)
    assert planner.measured.rtt_ms.value == pytest.approx(20.0, abs=4.0)
    assert 0.4 < planner.measured.acceptance.value < 0.95


@pytest.mark.parametrize("skill", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("draft_s", [0.001, 0.03])
def test_adaptive_never_leaves_the_user_much_slower_than_the_cloud(skill, draft_s):
    world = World(pass_s=0.04, faults=Faults(delay_s=(0.01, 0.01)))
    writer = start(world, Manner("adaptive", skill, draft_s=draft_s), max_tokens=300)
    assert writer.write() == continuation(PROMPT, GREEDY, 300)
    assert world.clock.now() * 1000.0 / 300 < 40.0 * 1.15


def test_time_of_the_caller_is_not_the_loop_s():
    world = World(pass_s=0.01)
    writer = start(world, Manner(), max_tokens=40)
    while writer.step():
        world.clock.advance(5.0)  # the caller thinks
    statistics = writer.loop.statistics
    assert statistics.overhead_us == 0
    assert statistics.waiting_us < 3_000_000


def test_one_remote_call_a_token_leaves_the_drafter_alone():
    class Unread(ToyDrafter):
        reads = 0

        def read(self, limit: int) -> int:
            self.reads += limit
            return 1  # there is always something it could read

    world, drafter = World(), Unread()
    writer = world.writer(PROMPT, GREEDY, drafter, FixedPlanner(0), max_tokens=12, options=LoopOptions(ahead=False))
    assert writer.write() == continuation(PROMPT, GREEDY, 12)
    assert drafter.reads == 0
