"""The law against an adversary: whatever happens to messages, servers and devices, each text is the target's own.

A stateful model: Hypothesis invents what happens, rule by rule, and after every rule all that must hold is looked at. One
thread has the word at a time and the clock is handed in, so a failure repeats; it is printed as the rules that lead to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from adversary import Device, Direction, Saved, Stage, Wire
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from toy_world import VOCABULARY, continuation

from foredraft_cloud.engine import EngineOptions
from foredraft_cloud.sessions import MAX_AHEAD
from foredraft_cloud.toy import toy_scores
from foredraft_edge.drafters.base import Proposal
from foredraft_edge.drafters.text import Text as DraftText
from foredraft_edge.link import Link
from foredraft_edge.options import LoopOptions
from foredraft_edge.planner import AdaptivePlanner, FixedPlanner, Planner
from foredraft_edge.watch import Watch
from foredraft_shared.errors import DeadlineMissed, LinkLost, Overloaded, SessionUnknown, TakenOver
from foredraft_shared.messages import SamplingParams, TokenId

MAX_TOKENS = 14
MAX_DRAFT = 8
MAX_TEXTS = 3
"""In one example."""
PATIENCE_S = 3600.0
"""Of devices: the model is never silent for so long, so that no text may be given up."""
HEALED_S = 120.0
"""Once everything works, every text is complete within this time."""
DRAFT_S = 0.002
LATE_S = 0.02
"""By how much a deadline may be missed."""

PROMPTS = ((3, 1, 4, 1, 5), (9,), tuple(range(20)))
PARAMS = (SamplingParams(), SamplingParams(0.8, top_p=0.95, seed=7), SamplingParams(1.0, top_k=4, seed=1))


@dataclass(frozen=True)
class Manner:
    """How a text is written: everything that must not matter."""

    planner: Callable[[], Planner]
    options: LoopOptions
    skill: float = 0.8


def _manner(planner: Callable[[], Planner], skill: float = 0.8, **options: object) -> Manner:
    return Manner(planner, LoopOptions(timeout_s=PATIENCE_S, **options), skill)  # type: ignore[arg-type]


MANNERS = (
    _manner(lambda: FixedPlanner(3)),
    _manner(lambda: FixedPlanner(3), on_disconnect="edge"),
    _manner(lambda: FixedPlanner(0, "cloud")),
    _manner(lambda: FixedPlanner(0, "cloud"), on_disconnect="edge"),
    _manner(lambda: FixedPlanner(3), ahead=False),
    _manner(lambda: FixedPlanner(3), on_disconnect="fail"),
    _manner(lambda: FixedPlanner(2), window=1),
    _manner(lambda: FixedPlanner(2), window=3, chain_confidence=0.0, skill=0.95),
    _manner(lambda: FixedPlanner(4), hints=False, chain_confidence=0.0),
    _manner(lambda: FixedPlanner(2), window=3, chain_confidence=0.0, skill=0.95, on_disconnect="edge"),
    _manner(lambda: AdaptivePlanner(warm_up=2)),
    _manner(lambda: AdaptivePlanner(warm_up=2), on_disconnect="edge"),
    _manner(lambda: FixedPlanner(0)),
    _manner(lambda: FixedPlanner(8), skill=0.3, chain_confidence=0.0),
    _manner(lambda: FixedPlanner(8), skill=0.3, ahead=False),
)
HASTY = tuple(manner for manner in MANNERS if not manner.options.ahead or manner.planner().plan(0, 64).mode == "cloud")
"""Whose first rounds say something of their own: who drafts ahead begins with an empty draft."""


def obey(examples: int, *, derandomize: bool) -> None:
    """Let Hypothesis try so many runs against the law."""
    run_state_machine_as_test(
        Law,
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            derandomize=derandomize,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # One failure, made short, and soon: a run that fails must not take minutes to say so.
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
        ),
    )


@cache
def truth(prompt: tuple[TokenId, ...], params: SamplingParams) -> tuple[TokenId, ...]:
    return tuple(continuation(prompt, params, MAX_TOKENS))


class Oracle(DraftText):
    """Knows the answer, and says now and then something else: a drafter that costs next to nothing."""

    def __init__(self, stage: Stage, prompt: tuple[TokenId, ...], answer: tuple[TokenId, ...], skill: float) -> None:
        super().__init__("")
        self._clock = stage.clock
        self._whole = (*prompt, *answer)
        self._skill = skill

    def draft(self, limit: int, params: SamplingParams) -> Iterator[Proposal]:
        for _ in range(limit):
            position = len(self._text)
            known = position < len(self._whole) and self._text[-1] == self._whole[position - 1]
            right = known and position * 0.618 % 1.0 < self._skill
            self._clock.advance(DRAFT_S)
            self._text.append(self._whole[position] if right else position % VOCABULARY)
            yield Proposal(self._text[-1], 0.85 if right else 0.35)


@pytest.fixture(autouse=True)
def quick_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's scores are a pure function of a text, and the texts are few."""
    known: dict[tuple[TokenId, ...], Any] = {}

    def scores(tokens: Sequence[TokenId], vocabulary: int = VOCABULARY, salt: int = 0) -> Any:
        key = (salt, *tokens)
        if key not in known:
            known[key] = toy_scores(tokens, vocabulary, salt)
        return known[key]

    monkeypatch.setattr("foredraft_cloud.toy.toy_scores", scores)


@dataclass
class Text:
    """A text that was begun, and what must come of it."""

    device: Device
    answer: tuple[TokenId, ...]
    manner: Manner
    disputed: bool = False
    """Somebody else has named its session."""
    shared: bool = False
    """Another process of the same device writes it, too."""
    thought: bool = False
    """Its caller let it wait: no deadline can be held."""

    def may_end_with(self, error: Exception) -> bool:
        if isinstance(error, SessionUnknown):
            return self.disputed
        if isinstance(error, TakenOver):
            return self.shared
        if isinstance(error, DeadlineMissed):
            return self.device.text_due is not None and not self.device.text and not self.device.provisional
        return self.manner.options.on_disconnect == "fail" and isinstance(error, LinkLost | Overloaded)


choices = st.integers(0, 15)
"""Taken modulo what there is."""
COPIES = ("just now", "from before", "the id alone", "by the same client")
directions = st.sampled_from(["up", "down"])


class Law(RuleBasedStateMachine):
    """Edge, cloud, and a link that does what it likes."""

    def __init__(self) -> None:
        super().__init__()
        # Few rows a pass: a round waits in the cloud while even a short prompt is read.
        options = EngineOptions(prefill_rows=4, max_rows=12, max_draft=MAX_DRAFT, hint_confidence=0.1)
        self.stage = Stage(pass_s=0.005, options=options)
        self.texts: list[Text] = []

    # --- what devices do

    @precondition(lambda self: len(self.texts) < MAX_TEXTS)
    @rule(
        which=st.integers(0, 8),
        manner=st.sampled_from(MANNERS),
        stop=st.booleans(),
        again=st.booleans(),
        deadline_s=st.sampled_from([None, None, 0.2, 5.0]),
    )
    def begin(self, which: int, manner: Manner, stop: bool, again: bool, deadline_s: float | None) -> None:
        """A device begins a text, on a new link or on one that a finished text has left."""
        prompt, params = PROMPTS[which % 3], PARAMS[which // 3]
        answer = truth(prompt, params)
        stops = (answer[-3],) if stop else ()
        if stops:
            answer = answer[: answer.index(stops[0]) + 1]
        busy = [text.device.wire for text in self.texts if not text.device.over]
        left = [wire for wire in self.stage.network.wires if not wire.broken and wire not in busy]
        left = [wire for wire in left if wire.peer.identity.startswith("key")]
        wire = left[-1] if again and left else self.stage.network.wire(f"key-{len(self.texts)}")
        saved = Saved(bytes([len(self.texts) + 1]) * 16, prompt, params, MAX_TOKENS, stops)
        due_s = None if deadline_s is None else self.stage.clock.now() + deadline_s
        self.texts.append(Text(self._device(wire, saved, manner, deadline_s=due_s), answer, manner))

    def _device(self, wire: Wire, saved: Saved, manner: Manner, **how: Any) -> Device:
        text = saved.text
        oracle = Oracle(self.stage, text.prompt, truth(text.prompt, text.sampling), manner.skill)
        device = Device(
            self.stage, wire, saved, oracle, manner.planner(), max_draft=MAX_DRAFT, options=manner.options, **how
        )
        self.stage.devices.append(device)
        return device

    @precondition(lambda self: self.texts)
    @rule(which=choices, manner=st.sampled_from(MANNERS))
    def die(self, which: int, manner: Manner) -> None:
        """A device is killed, and the text that it saved is taken up again, in whatever manner."""
        text = self._text(which)
        device = text.device
        if device.over or text.disputed:
            return
        device.die()
        shown, kept = device.text, device.saved.text.tokens
        assert kept[: len(shown)] == shown, "the caller was shown what was not saved"
        if tuple(kept) != text.answer:
            wire = self.stage.network.wire(device.wire.peer.identity)
            text.device, text.manner = self._device(wire, device.saved, manner, taken_up=True), manner

    @precondition(lambda self: len(self.texts) < MAX_TEXTS)
    @rule(
        which=st.integers(0, 8),
        first=st.sampled_from(HASTY) | st.sampled_from(MANNERS),
        second=st.sampled_from(HASTY) | st.sampled_from(MANNERS),
        seconds=st.sampled_from([0.0, 0.005, 0.011, 0.02]),
    )
    def die_young(self, which: int, first: Manner, second: Manner, seconds: float) -> None:
        """A device is killed while the cloud reads the prompt it was sent, and its text is taken up at once."""
        self.begin(which, first, stop=False, again=False, deadline_s=None)
        self.stage.pass_time(seconds)
        self.die(len(self.texts) - 1, second)

    @precondition(lambda self: self.texts)
    @rule(which=choices, seconds=st.sampled_from([0.01, 0.15, 1.0]))
    def hurry(self, which: int, seconds: float) -> None:
        """A control loop wants what there is in so much time."""
        device = self._text(which).device
        if not device.over and not device.paused:
            device.hurry(seconds)

    @precondition(lambda self: self.texts)
    @rule(which=choices, paused=st.booleans())
    def pause(self, which: int, paused: bool) -> None:
        """The device's caller thinks, or asks for more."""
        text = self._text(which)
        text.device.paused = paused
        text.thought = text.thought or paused

    @precondition(lambda self: self.texts)
    @rule(which=choices)
    def leave(self, which: int) -> None:
        """The device's caller has enough."""
        device = self._text(which).device
        if not device.over:
            device.leave()

    @precondition(lambda self: 0 < len(self.texts) < MAX_TEXTS)
    @rule(which=choices, manner=st.sampled_from(MANNERS))
    def intrude(self, which: int, manner: Manner) -> None:
        """Another device begins a text under the same session id."""
        text = self._text(which)
        session = text.device.saved.text.session
        for each in self.texts:
            each.disputed = each.disputed or each.device.saved.text.session == session
        saved = Saved(session, PROMPTS[0], PARAMS[0], MAX_TOKENS)
        device = self._device(self.stage.network.wire(f"thief-{len(self.texts)}"), saved, manner)
        self.texts.append(Text(device, truth(PROMPTS[0], PARAMS[0]), manner, disputed=True))

    @precondition(lambda self: 0 < len(self.texts) < MAX_TEXTS)
    @rule(which=choices, manner=st.sampled_from(HASTY) | st.sampled_from(MANNERS), copied=st.sampled_from(COPIES))
    def twin(self, which: int, manner: Manner, copied: str) -> None:
        """Another process of the same device goes on with the same text, or with another one that it calls the same; or
        the client that wrote it goes on with a copy, once it has left it."""
        text = self._text(which)
        if text.device.over or text.disputed:
            return
        saved, answer, kept = text.device.saved.text, text.answer, list(text.device.text)
        epoch, same_client = text.device.ledger.epoch, copied == "by the same client"
        if copied == "from before" or same_client:  # whoever takes that up comes to the epoch of the first one
            epoch, kept = epoch - 1, kept[: text.device.restored]
        copy = Saved(saved.session, saved.prompt, saved.sampling, saved.max_tokens, saved.stop_tokens)
        if copied == "the id alone":
            epoch, kept, answer = 0, [], truth(PROMPTS[0], PARAMS[0])
            copy = Saved(saved.session, PROMPTS[0], PARAMS[0], MAX_TOKENS)
        copy.text.epoch, copy.text.tokens = max(1, epoch), kept
        if same_client:
            text.device.leave()
            wire = text.device.wire
        else:
            wire = self.stage.network.wire(text.device.wire.peer.identity)
            text.shared = True
        device = self._device(wire, copy, manner, taken_up=epoch > 0 or same_client)
        self.texts.append(Text(device, answer, manner, shared=text.shared))

    # --- what happens to messages

    @rule(seconds=st.sampled_from([0.011, 0.02, 0.05, 0.3]))
    def flow(self, seconds: float) -> None:
        """All goes well for a while; what was held arrives first."""
        self.stage.pass_time(seconds)

    @rule(seconds=st.sampled_from([0.005, 0.05, 1.1, 9.0]))
    def silence(self, seconds: float) -> None:
        """Everybody works, and nothing arrives."""
        self.stage.pass_time(seconds, flowing=False)

    @precondition(lambda self: self.texts)
    @rule(which=choices, direction=directions, index=choices, fate=st.sampled_from(["deliver", "double", "drop"]))
    def meddle(self, which: int, direction: Direction, index: int, fate: str) -> None:
        """One message arrives, whatever was sent before it; or arrives and will arrive once more; or never will."""
        wire = self._text(which).device.wire
        held = wire.held(direction)
        if held:
            index %= len(held)
            if fate != "drop":
                self.stage.network.arrive(wire, direction, held[index].data)
            if fate != "double":
                del held[index]
            self.stage.pass_time(0.0, flowing=False)

    @precondition(lambda self: self.texts)
    @rule(which=choices, direction=directions, index=st.integers(0, 63))
    def replay(self, which: int, direction: Direction, index: int) -> None:
        """A message that was sent long ago arrives, perhaps again."""
        wire = self._text(which).device.wire
        seen = wire.seen[direction]
        if seen:
            self.stage.network.arrive(wire, direction, seen[-1 - index % len(seen)])
            self.stage.pass_time(0.0, flowing=False)

    @precondition(lambda self: self.texts)
    @rule(which=choices, dead=st.booleans(), loud=st.booleans())
    def cut(self, which: int, dead: bool, loud: bool) -> None:
        """A link becomes a black hole, or says that it is down; or heals. What was under way is lost."""
        wire = self._text(which).device.wire
        if dead:
            wire.up.clear()
            wire.down.clear()
        if not wire.broken:
            wire.dead, wire.loud = dead, loud

    # --- what happens to the cloud

    @rule(seconds=st.sampled_from([0.0, 0.02, 2.0]))
    def restart(self, seconds: float) -> None:
        """The cloud dies, and comes back without a session."""
        self.stage.stop()
        self.stage.pass_time(seconds)
        self.stage.start()

    @precondition(lambda self: self.texts)
    @rule(which=choices, how=st.sampled_from(["forget", "evict", "park"]))
    def free(self, which: int, how: str) -> None:
        """The cloud forgets a device's sessions, or frees their room in the cache, or takes the device for gone."""
        engine, wire = self.stage.engine, self._text(which).device.wire
        if how == "forget":
            engine.forget_device(wire.peer.identity)
            return
        for session in engine._registry:
            if session.owner == wire.peer.identity and how == "evict":
                engine._registry.evict(session)
            elif session.owner == wire.peer.identity:
                engine.give_up(wire.peer, session.ledger.session)

    @rule()
    def drain(self) -> None:
        """The cloud says goodbye, but does not go before it is restarted."""
        self.stage.drain()

    # --- what must hold

    @invariant()
    def committed_is_true(self) -> None:
        """No token lost, doubled or wrong, on either side; and nobody gives up without a reason.

        That what is provisional is never taken for final, and is restated without a gap, is looked at by the device's
        :class:`~toy_world.Writer` at every commit.
        """
        whole: dict[str, list[tuple[TokenId, ...]]] = {}
        for text in self.texts:
            device = text.device
            assert tuple(device.text) == text.answer[: len(device.text)]
            assert list(device.ledger.written) == device.text == device.saved.text.tokens
            assert device.loop.statistics.committed == len(device.text) - device.restored
            if device.error is not None:
                assert text.may_end_with(device.error), device.error
            whole.setdefault(device.wire.peer.identity, []).append((*device.saved.text.prompt, *text.answer))
        for session in self.stage.engine._registry:
            held = tuple(session.ledger.tokens)
            assert any(held == answer[: len(held)] for answer in whole[session.owner])
            assert tuple(self.stage.target.read(session.slot)) == held[: session.slot.length]

    @invariant()
    def deadlines_are_held(self) -> None:
        """What the caller wanted by then is there, or it was told that there is nothing."""
        for text in self.texts:
            device = text.device
            if not (text.thought or device.left):
                late_s = self.stage.clock.now() - device.due if device.due is not None and not device.over else 0.0
                assert max(device.latest, late_s) <= LATE_S

    @invariant()
    def tables_are_bounded(self) -> None:
        """Nothing grows with what an adversary does."""
        assert self.stage.engine.sessions <= len(self.texts)
        for session in self.stage.engine._registry:
            assert len(session._ahead) <= MAX_AHEAD
        for text in self.texts:
            loop = text.device.loop
            flights = loop._conversation.flights
            assert len(text.device.ledger.in_flight) <= len(flights) <= max(1, loop._options.window)

    def teardown(self) -> None:
        """Once everything works again, every text is completed, and soon."""
        stage = self.stage
        try:
            if stage.draining or stage.listener.closed:
                stage.start()
            for wire in stage.network.wires:
                wire.dead = wire.broken
            for text in self.texts:
                text.device.paused = False
            healed_at = stage.clock.now()
            while any(not text.device.over for text in self.texts) and stage.clock.now() < healed_at + HEALED_S:
                stage.pass_time(1.0)
            self.committed_is_true()
            self.deadlines_are_held()
            for text in self.texts:
                device = text.device
                assert device.over, (
                    f"a text hangs at {len(device.text)} of {len(text.answer)} tokens, {device.loop.state}"
                )
                if not (device.left or device.error or device.loop.finish == "deadline"):
                    assert tuple(device.text) == text.answer
                    assert not device.provisional
        finally:
            for device in stage.devices:
                if not device.over:
                    device.leave()

    def _text(self, which: int) -> Text:
        return self.texts[which % len(self.texts)]


@pytest.mark.timeout(900)
def test_no_adversary_breaks_the_law() -> None:
    obey(2000, derandomize=True)


@pytest.mark.slow
@pytest.mark.timeout(36_000)
def test_no_adversary_breaks_the_law_in_a_hundred_thousand_runs() -> None:
    obey(int(os.environ.get("LAW_EXAMPLES") or 100_000), derandomize=False)


def test_a_text_that_was_killed_before_its_first_token_is_not_given_the_verdict_of_the_one_before_it() -> None:
    """Both have a round 1 with other tokens in it; the server is at work on the first when the second comes."""
    law = Law()
    law.stage.pass_s = 0.1  # the prompt takes two
    law.begin(
        which=2, manner=_manner(lambda: FixedPlanner(3), 1.0, ahead=False), stop=False, again=False, deadline_s=None
    )
    law.flow(0.03)
    law.die(which=0, manner=_manner(lambda: FixedPlanner(8), 0.3, ahead=False))
    for _ in range(3):
        law.flow(0.3)
        law.committed_is_true()
    law.teardown()


def test_whoever_turns_in_circles_breaks_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stands still for a device that never waits: no deadline ends it, and the test's own would tell nothing."""
    law = Law()
    law.begin(which=0, manner=MANNERS[0], stop=False, again=False, deadline_s=None)
    monkeypatch.setattr(Watch, "next_ns", lambda self: 0)
    monkeypatch.setattr(Link, "receive", lambda self, timeout_s: self.transport.receive(timeout_s) and None)
    with pytest.raises(AssertionError, match="livelock"):
        law.flow(0.3)
