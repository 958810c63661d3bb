"""What happens inside a pass and around it: rows dropped at exits, sessions closed in the middle, waiting for company."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from engine_world import GREEDY, ONE, PROMPT, SAMPLED, TWO, Cloud, decode, draft
from toy_world import VOCABULARY, continuation

from foredraft_cloud.engine import Engine, EngineOptions
from foredraft_cloud.toy import ToyLogits, ToyPass, ToyTarget
from foredraft_shared.messages import (
    Close,
    CloudMessage,
    Draft,
    EdgeMessage,
    Failure,
    Open,
    Resume,
    SamplingParams,
    Verdict,
)

# --- rows dropped at exits


def wrongly_drafted(cloud: Cloud, params: SamplingParams, count: int = 40) -> list[int]:
    """Write a text with drafts of six, of which every second has a wrong token somewhere."""
    truth = continuation(PROMPT, params, count)
    cloud.hear(Open(ONE, PROMPT, params, max_tokens=count, hints=False))
    text: list[int] = []
    number = 0
    while len(text) < count:
        number += 1
        guess = truth[len(text) : len(text) + 6]
        if number % 2 and guess:
            guess[number % len(guess)] ^= 1
        (verdict,) = cloud.verdicts(draft([*PROMPT, *text], guess, number=number))
        text += [*guess[: verdict.accepted], verdict.token]
    return text


@pytest.mark.parametrize("params", [GREEDY, SAMPLED])
@pytest.mark.parametrize("sure", [0.0, 0.1, 1.0])
def test_dropping_rows_changes_no_token_however_rash(params: SamplingParams, sure: float):
    """The toy's exits are often wrong, and with ``sure=0`` they are always believed."""
    cloud = Cloud(EngineOptions(drop_confidence=sure), ToyTarget(vocabulary=VOCABULARY, exits=(2, 3, 4)))
    assert wrongly_drafted(cloud, params) == continuation(PROMPT, params, 40)
    statistics = cloud.engine.statistics
    assert statistics.committed == 40
    assert (statistics.rows_dropped > 0) == (sure < 1.0)
    assert (statistics.dropped_wrongly > 0) == (sure < 1.0)


def test_an_exit_that_knows_saves_the_rows_behind_a_wrong_token(monkeypatch: pytest.MonkeyPatch):
    score = ToyPass._score
    monkeypatch.setattr(ToyPass, "_score", lambda self, run, layer, final: score(self, run, layer, True))
    monkeypatch.setattr(
        ToyLogits, "foresee", lambda self, row, drafted, params, position, trust: (self.pick(row, GREEDY, 0), 0.97)
    )
    cloud = Cloud(EngineOptions(drop_confidence=0.95))
    assert wrongly_drafted(cloud, GREEDY) == continuation(PROMPT, GREEDY, 40)
    statistics = cloud.engine.statistics
    assert statistics.dropped_wrongly == 0
    # What stands behind the wrong token of each draft; the text's limit has cut one token off the last.
    assert statistics.rows_dropped == statistics.drafted - statistics.accepted - 1 > 0
    assert statistics.passes == statistics.rounds


def test_a_round_dropped_wrongly_is_one_verdict_all_the_same():
    truth = continuation(PROMPT, GREEDY, 9)
    cloud = Cloud(EngineOptions(drop_confidence=0.0))
    cloud.hear(Open(ONE, PROMPT, hints=False))
    (verdict,) = cloud.verdicts(draft(PROMPT, truth[:6]))
    assert (verdict.base, verdict.accepted, verdict.token) == (5, 6, truth[6])
    assert cloud.engine.statistics.dropped_wrongly == 6
    assert cloud.engine.statistics.rounds == 1


def test_what_the_edge_has_decided_is_not_doubted():
    cloud = Cloud(EngineOptions(drop_confidence=0.0))
    cloud.hear(Open(ONE, PROMPT, hints=False))
    (verdict,) = cloud.verdicts(draft(PROMPT, (9, 9, 9), forced=3))
    assert verdict.accepted == 3
    assert cloud.engine.statistics.rows_dropped == 0


def test_a_stream_has_nothing_to_drop():
    cloud = Cloud(EngineOptions(drop_confidence=0.0))
    cloud.hear(Open(ONE, PROMPT))
    assert [verdict.token for verdict in cloud.verdicts(decode(PROMPT, 6))] == continuation(PROMPT, GREEDY, 6)


# --- what is said in the middle of a pass


class Interrupted:
    """A cloud to whom something is said at the first exit of its next pass."""

    def __init__(self) -> None:
        self.said: list[CloudMessage] = []
        self.target = ToyTarget(vocabulary=VOCABULARY, exits=(2, 4))
        self.then: list[Callable[[], object]] = []
        self.engine = Engine(self.target, lambda peer, message: self.said.append(message), overhear=self._overhear)

    def _overhear(self) -> None:
        while self.then:
            self.then.pop(0)()

    def hear(self, *messages: EdgeMessage) -> None:
        for message in messages:
            self.engine.receive("device", message)

    def interrupt(self, *messages: EdgeMessage, peer: str = "device") -> None:
        for message in messages:
            self.then.append(lambda message=message: self.engine.receive(peer, message))  # type: ignore[misc]


def test_a_session_closed_in_the_middle_of_a_pass_leaves_it_at_the_next_exit():
    truth = continuation(PROMPT, GREEDY, 9)
    cloud = Interrupted()
    cloud.hear(Open(ONE, PROMPT), Open(TWO, PROMPT))
    cloud.hear(draft(PROMPT, truth[:4]), draft(PROMPT, truth[:3], session=TWO))
    cloud.interrupt(Close(ONE))
    assert cloud.engine.step()
    assert [message.session for message in cloud.said if isinstance(message, Verdict)] == [TWO]
    statistics = cloud.engine.statistics
    assert (cloud.engine.sessions, statistics.cancelled, statistics.rows_dropped) == (1, 1, 9)
    assert not cloud.engine.step()


def test_a_session_resumed_in_the_middle_of_a_pass_leaves_it_and_goes_on():
    truth = continuation(PROMPT, GREEDY, 9)
    cloud = Interrupted()
    cloud.hear(Open(ONE, PROMPT), draft(PROMPT, truth[:4]))
    cloud.interrupt(Resume(ONE, 2, PROMPT, 5), draft(PROMPT, truth[:2], number=7, epoch=2))
    while cloud.engine.step():
        pass
    verdicts = [message for message in cloud.said if isinstance(message, Verdict)]
    assert [(verdict.epoch, verdict.round, verdict.token) for verdict in verdicts] == [(2, 7, truth[2])]


def test_nobody_else_can_cancel_a_session_and_what_changes_nothing_does_not():
    truth = continuation(PROMPT, GREEDY, 9)
    cloud = Interrupted()
    cloud.hear(Open(ONE, PROMPT), draft(PROMPT, truth[:4]))

    class Stranger(str):
        identity = "another key"

    cloud.interrupt(Close(ONE), peer=Stranger("stranger"))
    cloud.interrupt(Open(ONE, PROMPT), Resume(ONE, 1, PROMPT, 5), draft(PROMPT, truth[:4]))
    while cloud.engine.step():
        pass
    assert [message.accepted for message in cloud.said if isinstance(message, Verdict)] == [4, 4]  # the repeat
    assert [message.code for message in cloud.said if isinstance(message, Failure)] == ["session_unknown"]
    assert cloud.engine.statistics.cancelled == 0


def test_what_is_given_up_or_revoked_in_the_middle_of_a_pass_waits_for_its_end():
    cloud = Interrupted()
    cloud.hear(Open(ONE, PROMPT), draft(PROMPT, (1, 2)))
    cloud.then.append(lambda: cloud.engine.give_up("device", ONE))
    cloud.then.append(lambda: cloud.engine.forget_device(""))
    assert cloud.engine.step()
    assert cloud.engine.sessions == 0
    assert cloud.target.pages.use.held == 0


# --- waiting for company, and too much of it


def test_two_devices_out_of_step_come_to_share_their_passes():
    """A pass takes 40 ms however many rows it has, and a device answers after 6 ms."""
    passes = {gathering: passes_out_of_step(gathering) for gathering in (True, False)}
    assert passes[True] < 0.7 * passes[False]


def passes_out_of_step(gathering: bool) -> float:
    """Passes that a token of theirs takes."""
    now_ms = 0.0
    answers: list[tuple[str, CloudMessage]] = []
    target = ToyTarget(vocabulary=VOCABULARY, exits=(4,))
    engine = Engine(
        target,
        lambda peer, message, answers=answers: answers.append((peer, message)),  # type: ignore[misc]
        EngineOptions(gather_us=10_000 if gathering else 0),
        lambda: round(now_ms * 1e6),
    )
    verify = target.verify

    def slowly(batch, *, exits=True, verify=verify):
        nonlocal now_ms
        now_ms += 40.0
        return verify(batch, exits=exits)

    target.verify = slowly  # type: ignore[method-assign]
    texts = {"a": list(PROMPT), "b": [*PROMPT, 2]}
    sessions = {"a": ONE, "b": TWO}
    for peer, text in texts.items():
        engine.receive(peer, Open(sessions[peer], tuple(text), max_tokens=500))
    coming = [(0.0, "a"), (20.0, "b")]
    for _ in range(300):
        for due, peer in [each for each in coming if each[0] <= now_ms]:
            coming.remove((due, peer))
            request = draft(texts[peer], (1,), session=sessions[peer], number=len(texts[peer]))
            engine.receive(peer, request, round(due * 1e6))
        if engine.step():
            for peer, message in answers:
                assert isinstance(message, Verdict)
                texts[peer] += [*(1,) * message.accepted, message.token]
                coming.append((now_ms + (6.0 if peer == "a" else 9.0), peer))
            answers.clear()
        elif engine.pause_s:
            now_ms = min([now_ms + engine.pause_s * 1e3, *(due for due, _ in coming if due > now_ms)])
        else:
            now_ms = min(due for due, _ in coming)
    written = {peer: text[len(PROMPT) + (peer == "b") :] for peer, text in texts.items()}
    assert written["a"] == continuation(PROMPT, GREEDY, len(written["a"]))
    assert written["b"] == continuation([*PROMPT, 2], GREEDY, len(written["b"]))
    assert (engine.statistics.gathered > 0) == gathering
    return engine.statistics.passes / sum(map(len, written.values()))


def test_too_much_unread_text_is_refused_with_a_time_and_one_text_never():
    cloud = Cloud(EngineOptions(max_waiting_rows=100))
    long = tuple(number % 60 for number in range(150))
    cloud.hear(Open(ONE, long), Open(TWO, (7, *long)))
    (failure,) = (message for _, message in cloud.said)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.session, failure.retryable) == ("overloaded", TWO, True)
    assert failure.retry_after_ms > 0
    cloud.run()
    cloud.hear(Open(TWO, (7, *long)))
    assert len(cloud.verdicts(draft((7, *long), session=TWO))) == 1


def test_a_round_says_how_much_time_is_left_and_is_served_by_it():
    options = EngineOptions(max_sessions=20, max_rows=24, prefill_rows=8, max_draft=16)
    cloud = Cloud(options)
    names = [bytes([number]) * 16 for number in range(1, 7)]
    for number, name in enumerate(names):
        cloud.hear(Open(name, (number + 1,)), peer=name)
    cloud.run()
    for number, name in enumerate(names):
        request = draft((number + 1,), (1,) * 10, session=name)
        left = {4: 50, 2: 80}.get(number, 0)
        cloud.engine.receive(name, Draft(*(getattr(request, field) for field in FIELDS), 0, left))
    served = [message.session for message in cloud.run() if isinstance(message, Verdict)]
    assert served[:2] == [names[4], names[2]]
    assert sorted(served) == sorted(names)


FIELDS = ("session", "epoch", "round", "base", "digest", "tokens", "forced")
