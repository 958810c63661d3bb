"""Sessions over the toy target: opened, resumed, closed and parked, many at a time."""

from __future__ import annotations

import pytest
from engine_world import GREEDY, ONE, PROMPT, SAMPLED, TWO, Cloud, decode, draft, opened
from toy_world import VOCABULARY, continuation

from foredraft_cloud import registry
from foredraft_cloud.engine import EngineOptions
from foredraft_cloud.foresight import Trust
from foredraft_cloud.toy import ToyTarget
from foredraft_shared.messages import (
    Close,
    Failure,
    NeedResume,
    Open,
    Ping,
    Resume,
    Verdict,
)

# --- sessions -------------------------------------------------------------------------------------------------------


def test_resume_with_the_cache_reads_only_what_is_new():
    truth = continuation(PROMPT, GREEDY, 20)
    cloud = opened()
    cloud.verdicts(draft(PROMPT, truth[:7]))
    rows = cloud.target.rows
    cloud.hear(Resume(ONE, 2, (*PROMPT, *truth[:8]), 5))
    (verdict,) = cloud.verdicts(draft([*PROMPT, *truth[:8]], truth[8:10], number=9, epoch=2))
    assert (verdict.accepted, verdict.token, verdict.epoch) == (2, truth[10], 2)
    assert cloud.target.rows - rows == 3


def test_resume_of_an_unknown_session_reads_the_whole_text():
    truth = continuation(PROMPT, SAMPLED, 20)
    cloud = Cloud()
    cloud.hear(draft(PROMPT))
    assert cloud.run() == [NeedResume(ONE)]
    cloud.hear(Resume(ONE, 2, (*PROMPT, *truth[:8]), 5, SAMPLED, max_tokens=10))
    verdicts = cloud.verdicts(decode([*PROMPT, *truth[:8]], 5, number=3, epoch=2))
    assert [verdict.token for verdict in verdicts] == truth[8:10]
    assert verdicts[-1].finish == "length"


def test_resume_behind_the_server_s_text_gives_the_same_tokens_again():
    truth = continuation(PROMPT, GREEDY, 20)
    cloud = opened()
    cloud.verdicts(draft(PROMPT, truth[:9]))
    cloud.hear(Resume(ONE, 2, (*PROMPT, *truth[:3]), 5))
    (verdict,) = cloud.verdicts(draft([*PROMPT, *truth[:3]], (), number=4, epoch=2))
    assert verdict.token == truth[3]


def test_resume_with_another_text_drops_what_disagrees():
    cloud = opened()
    cloud.verdicts(draft(PROMPT, continuation(PROMPT, GREEDY, 9)))
    other = (*PROMPT[:3], 60, 61)
    cloud.hear(Resume(ONE, 2, other, 5))
    (verdict,) = cloud.verdicts(draft(other, number=4, epoch=2))
    assert verdict.token == continuation(other, GREEDY, 1)[0]


def test_a_late_open_or_resume_changes_nothing():
    truth = continuation(PROMPT, GREEDY, 9)
    cloud = opened()
    cloud.hear(Resume(ONE, 3, (*PROMPT, *truth[:2]), 5))
    cloud.hear(Open(ONE, PROMPT), Resume(ONE, 2, PROMPT, 5))
    (verdict,) = cloud.verdicts(draft([*PROMPT, *truth[:2]], number=9, epoch=3))
    assert verdict.token == truth[2]


def test_a_resumed_text_beyond_its_limits_is_refused():
    cloud = Cloud(target=ToyTarget(vocabulary=VOCABULARY, context=16))
    cloud.hear(Resume(ONE, 2, tuple(range(40)), 5, max_tokens=4), draft(tuple(range(40)), epoch=2))
    failures = [message for message in cloud.run() if isinstance(message, Failure)]
    assert [failure.session for failure in failures] == [ONE]
    assert cloud.engine.sessions == 0


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_close_in_the_middle_frees_the_slot(steps):
    cloud = opened(EngineOptions(prefill_rows=1))
    cloud.hear(decode(PROMPT, 50))
    for _ in range(steps):
        cloud.engine.step()
    cloud.hear(Close(ONE))
    assert cloud.engine.step() is False
    assert cloud.engine.sessions == 0
    for number in range(3, 67):  # every slot of the toy target is free
        cloud.hear(Open(bytes([number]) * 16, PROMPT))
    assert not any(isinstance(message, Failure) for message in cloud.run())


def test_a_session_whose_peer_is_gone_is_parked_and_waits_for_it():
    truth = continuation(PROMPT, GREEDY, 9)
    cloud = opened()
    cloud.hear(Open(TWO, PROMPT), peer="other")
    cloud.hear(decode(PROMPT, 9))
    cloud.hear(decode(PROMPT, 2, session=TWO), peer="other")
    cloud.engine.step()
    cloud.engine.give_up("device", ONE)
    cloud.engine.give_up("device", TWO)  # which is not its own: nothing happens
    assert [message.session for message in cloud.run() if isinstance(message, Verdict)] == [ONE, TWO, TWO]
    assert (cloud.engine.sessions, cloud.engine.statistics.parked) == (2, 1)
    cloud.hear(decode(PROMPT, 9, number=2))
    assert {peer for peer, _ in cloud.said} == {"device"}  # what is written already
    assert [message.token for message in cloud.run() if isinstance(message, Verdict)] == truth


def test_a_device_that_comes_back_under_another_name_takes_its_text_up_in_an_epoch_of_its_own():
    truth = continuation(PROMPT, GREEDY, 2)
    cloud = opened()
    cloud.hear(decode(PROMPT, 2))
    cloud.hear(Open(ONE, PROMPT), peer="elsewhere")
    assert cloud.said == [("elsewhere", NeedResume(ONE, 1))]
    cloud.hear(Resume(ONE, 2, PROMPT, 5), decode(PROMPT, 2, epoch=2), peer="elsewhere")
    while cloud.engine.step():
        pass
    assert [(peer, message.token) for peer, message in cloud.said[1:] if isinstance(message, Verdict)] == [
        ("elsewhere", token) for token in truth
    ]


def test_two_processes_that_took_up_copies_of_a_text_never_get_each_other_s_verdicts():
    """In the same epoch, and their first rounds have the same number and base, but hold other tokens."""
    truth = continuation(PROMPT, GREEDY, 9)
    cloud = Cloud()

    def answers(peer: str) -> list[object]:
        while cloud.engine.step():
            pass
        said = [message for to, message in cloud.said if to == peer]
        cloud.said.clear()
        return said

    cloud.hear(Resume(ONE, 2, PROMPT, 5), draft(PROMPT, truth[:3], epoch=2), peer="first")
    cloud.hear(Resume(ONE, 2, PROMPT, 5), draft(PROMPT, (60, 61, 62), epoch=2), peer="second")
    assert cloud.said == [("second", NeedResume(ONE, 2))] * 2
    (verdict,) = answers("first")
    assert isinstance(verdict, Verdict)
    assert (verdict.accepted, verdict.token) == (3, truth[3])
    cloud.hear(Resume(ONE, 3, PROMPT, 5), draft(PROMPT, (60, 61, 62), epoch=3), peer="second")
    (verdict,) = answers("second")
    assert isinstance(verdict, Verdict)
    assert (verdict.epoch, verdict.accepted, verdict.token) == (3, 0, truth[0])
    cloud.hear(draft([*PROMPT, *truth[:4]], number=2, epoch=2), Close(ONE, 2), peer="first")
    (failure,) = answers("first")
    assert isinstance(failure, Failure)
    assert failure.code == "taken_over"
    assert cloud.engine.sessions == 1  # who was told so says goodbye to its own epoch only
    cloud.hear(Close(ONE, 3), peer="second")
    assert cloud.engine.sessions == 0


# --- several devices ------------------------------------------------------------------------------------------------


def test_two_devices_share_passes_and_nothing_else():
    cloud = opened()
    cloud.hear(Open(TWO, PROMPT, SAMPLED), peer="other")
    cloud.hear(decode(PROMPT, 10))
    cloud.hear(decode(PROMPT, 10, session=TWO), peer="other")
    cloud.run_passes = 0  # type: ignore[attr-defined]
    while cloud.engine.step():
        pass
    texts = {
        peer: [m.token for to, m in cloud.said if to == peer and isinstance(m, Verdict)] for peer in ("device", "other")
    }
    assert texts == {"device": continuation(PROMPT, GREEDY, 10), "other": continuation(PROMPT, SAMPLED, 10)}
    assert cloud.target.passes == 10


def test_nobody_starves_when_rows_are_scarce():
    """Twelve streams, room for three of them in a pass, and one device that has yet to read a prompt."""
    options = EngineOptions(max_sessions=20, max_rows=24, prefill_rows=12, max_draft=7)
    cloud = Cloud(options)
    names = [bytes([number]) * 16 for number in range(1, 13)]
    for name in names:
        cloud.hear(Open(name, PROMPT, max_tokens=4000), draft(PROMPT, range(7), session=name))
    long = tuple(range(60))
    cloud.hear(Open(TWO[:15] + b"x", long), draft(long, session=TWO[:15] + b"x"))
    texts = {name: list(PROMPT) for name in names}
    waited = dict.fromkeys(names, 0)
    longest = reader_done_at = 0
    for turn in range(120):
        cloud.engine.step()
        for name in names:
            waited[name] += 1
        for _, message in cloud.said:
            if not isinstance(message, Verdict):
                continue
            if message.session not in texts:
                reader_done_at = reader_done_at or turn
                continue
            text = texts[message.session]
            text.extend([*range(7)][: message.accepted])
            text.append(message.token)
            longest = max(longest, waited[message.session])
            waited[message.session] = 0
            cloud.hear(draft(text, range(7), number=len(text), session=message.session))
        cloud.said.clear()
    assert max(longest, *waited.values()) <= 16
    assert 0 < reader_done_at <= 60


def test_options_that_would_starve_a_round_are_refused():
    with pytest.raises(ValueError, match="max_rows"):
        EngineOptions(max_rows=32, prefill_rows=64, max_draft=64)


def test_more_sessions_than_allowed_are_refused_and_the_rest_go_on():
    cloud = opened(EngineOptions(max_sessions=1))
    cloud.hear(Open(TWO, PROMPT))
    (failure,) = cloud.run()
    assert isinstance(failure, Failure)
    assert (failure.code, failure.retryable, failure.session) == ("overloaded", True, TWO)
    assert len(cloud.verdicts(decode(PROMPT, 3))) == 3
    cloud.hear(Close(ONE), Open(TWO, PROMPT))
    assert cloud.engine.sessions == 1


def test_a_session_long_silent_makes_room_for_another_and_takes_it_back():
    truth = continuation(PROMPT, GREEDY, 5)
    cloud = Cloud(EngineOptions(max_sessions=2, idle_s=30.0))
    three = bytes([3]) * 16
    cloud.hear(Open(ONE, PROMPT), Open(TWO, PROMPT))
    cloud.now_ns += 29 * 10**9
    assert len(cloud.verdicts(draft(PROMPT, session=TWO))) == 1
    cloud.hear(Open(three, PROMPT))
    assert [type(message) for message in cloud.run()] == [Failure]
    cloud.now_ns += 2 * 10**9
    cloud.hear(Open(three, PROMPT))
    assert len(cloud.verdicts(draft(PROMPT, session=three), draft([*PROMPT, truth[0]], number=2, session=TWO))) == 2
    cloud.hear(draft(PROMPT, number=2))  # the server is as busy as it may be
    (failure,) = cloud.run()
    assert isinstance(failure, Failure)
    assert (failure.code, failure.session) == ("overloaded", ONE)
    assert failure.retry_after_ms > 0
    cloud.hear(Close(three))
    assert [verdict.token for verdict in cloud.verdicts(decode(PROMPT, 5, number=3))] == truth


def test_a_session_parked_for_too_long_is_dropped_and_resumed_with_its_text():
    truth = continuation(PROMPT, GREEDY, 5)
    cloud = opened(EngineOptions(idle_s=30.0, park_s=60.0))
    cloud.now_ns += 59 * 10**9
    assert len(cloud.verdicts(draft(PROMPT))) == 1
    cloud.now_ns += 61 * 10**9
    cloud.run()
    assert cloud.engine.sessions == 0
    cloud.hear(draft([*PROMPT, truth[0]], number=2))
    assert cloud.run() == [NeedResume(ONE)]
    cloud.hear(Resume(ONE, 2, (*PROMPT, truth[0]), 5))
    assert [verdict.token for verdict in cloud.verdicts(decode([*PROMPT, truth[0]], 4, number=3, epoch=2))] == truth[1:]


def test_beyond_the_most_parked_sessions_the_longest_silent_is_dropped():
    cloud = Cloud(EngineOptions(max_sessions=9, max_parked=2, idle_s=1.0))
    names = [bytes([number]) * 16 for number in range(1, 5)]
    for name in names:
        cloud.hear(Open(name, PROMPT))
        cloud.now_ns += 10**9
    cloud.now_ns += 2 * 10**9
    cloud.run()
    assert cloud.engine.sessions == 2
    for name in names:
        cloud.hear(draft(PROMPT, session=name))
    kinds = [type(message) for message in cloud.run()]
    assert (kinds.count(NeedResume), kinds.count(Verdict)) == (2, 2)


# --- what is known of a device's drafts --------------------------------------------------------------------------------


class Enrolled(str):
    """A connection of which it is known whose it is."""

    __slots__ = ()
    identity = "a key"


def trust_of(cloud: Cloud, session: bytes, peer: str = "device") -> Trust:
    found = cloud.engine._registry.find(peer, session)
    assert found is not None
    return found.trust


def test_who_is_refused_takes_no_other_device_s_place(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_REMEMBERED", 2)
    cloud = Cloud(target=ToyTarget(vocabulary=VOCABULARY, pages=4, page_tokens=16))
    cloud.hear(Open(ONE, PROMPT, max_tokens=8))
    known = trust_of(cloud, ONE)
    cloud.hear(Close(ONE))
    cloud.hear(Open(TWO, tuple(range(40)), max_tokens=8), peer="large")
    cloud.hear(Open(bytes([3]) * 16, tuple(range(40)), max_tokens=8), peer="too large")
    (failure,) = cloud.run()
    assert isinstance(failure, Failure)
    assert failure.code == "overloaded"
    cloud.hear(Open(ONE, PROMPT, max_tokens=8))
    assert trust_of(cloud, ONE) is known


def test_a_device_is_known_as_long_as_it_has_a_session_and_then_for_a_while(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_REMEMBERED", 2)
    cloud = opened()
    known = trust_of(cloud, ONE)
    others = {}
    for number in range(3, 7):
        name, peer = bytes([number]) * 16, f"other {number}"
        cloud.hear(Open(name, PROMPT), peer=peer)
        others[number] = trust_of(cloud, name, peer)
        cloud.hear(Close(name), peer=peer)
    cloud.hear(Open(TWO, PROMPT))
    assert trust_of(cloud, TWO) is known
    for number, trust in reversed(others.items()):
        name, peer = bytes([number]) * 16, f"other {number}"
        cloud.hear(Open(name, PROMPT), peer=peer)
        assert (trust_of(cloud, name, peer) is trust) == (number == 6)
        cloud.hear(Close(name), peer=peer)


def test_nothing_is_known_of_a_device_whose_key_was_revoked():
    cloud, peer = Cloud(), Enrolled("device")
    cloud.hear(Open(ONE, PROMPT), peer=peer)
    known = trust_of(cloud, ONE, peer)
    cloud.engine.forget_device(peer.identity)
    assert cloud.engine.sessions == 0
    cloud.hear(Open(TWO, PROMPT), peer=peer)
    assert trust_of(cloud, TWO, peer) is not known


# --- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Open(TWO, (1, VOCABULARY)), "usage"),
        (Open(TWO, (1,), max_tokens=5000), "prompt_too_long"),
        (Resume(TWO, 2, (1, 2), 1, max_tokens=5000), "prompt_too_long"),
        (draft(PROMPT, (VOCABULARY,)), "usage"),
        (draft(PROMPT, (1,) * 65), "usage"),
        (Ping(1), "refused"),
    ],
)
def test_what_cannot_be_is_a_failure_and_nothing_else(message, code):
    cloud = opened()
    cloud.hear(message)
    (failure,) = cloud.run()
    assert isinstance(failure, Failure)
    assert failure.code == code
    assert "\n" not in failure.message
    assert len(cloud.verdicts(draft(PROMPT))) == 1
