"""The engine over the toy target: whatever devices say, and however often, the text is the target's own."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import VOCABULARY, continuation

from foredraft_cloud.engine import Engine, EngineOptions
from foredraft_cloud.toy import ToyTarget
from foredraft_shared.ledger import EMPTY_DIGEST, extend_digest
from foredraft_shared.messages import (
    Close,
    CloudMessage,
    Decode,
    Draft,
    EdgeMessage,
    Failure,
    Hint,
    NeedResume,
    Open,
    Ping,
    Resume,
    Resync,
    SamplingParams,
    Verdict,
)

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=3)
PROMPT = (3, 1, 4, 1, 5)
ONE, TWO = bytes([1]) * 16, bytes([2]) * 16

tokens = st.integers(0, VOCABULARY - 1)
params = st.sampled_from([GREEDY, SAMPLED])


class Cloud:
    """An engine, a clock that ticks a millisecond a look, and everything that was answered."""

    def __init__(self, options: EngineOptions | None = None, target: ToyTarget | None = None) -> None:
        self.target = target or ToyTarget(vocabulary=VOCABULARY)
        self.said: list[tuple[Hashable, CloudMessage]] = []
        self.now_ns = 0
        self.engine = Engine(self.target, lambda peer, message: self.said.append((peer, message)), options, self._tick)

    def _tick(self) -> int:
        self.now_ns += 1_000_000
        return self.now_ns

    def hear(self, *messages: EdgeMessage, peer: Hashable = "device") -> None:
        for message in messages:
            self.engine.receive(peer, message)

    def run(self) -> list[CloudMessage]:
        """Pass after pass until nobody waits; what was said since the last time."""
        while self.engine.step():
            pass
        said = [message for _, message in self.said]
        self.said.clear()
        return said

    def verdicts(self, *messages: EdgeMessage) -> list[Verdict]:
        self.hear(*messages)
        return [message for message in self.run() if isinstance(message, Verdict)]


def digest(text: Sequence[int]) -> int:
    return extend_digest(EMPTY_DIGEST, text)


def draft(
    text: Sequence[int],
    guess: Sequence[int] = (),
    *,
    number: int = 1,
    session: bytes = ONE,
    epoch: int = 1,
    forced: int = 0,
) -> Draft:
    return Draft(session, epoch, number, len(text), digest(text), tuple(guess), forced)


def decode(text: Sequence[int], count: int, *, number: int = 1, session: bytes = ONE, epoch: int = 1) -> Decode:
    return Decode(session, epoch, number, len(text), digest(text), count)


def opened(options: EngineOptions | None = None, **how: object) -> Cloud:
    cloud = Cloud(options)
    cloud.hear(Open(ONE, PROMPT, **how))  # type: ignore[arg-type]
    return cloud


# --- drafts ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(tokens, min_size=1, max_size=30),
    params,
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=12),
)
def test_any_division_into_drafts_gives_the_same_text(prompt, sampling, drafts):
    truth = continuation(prompt, sampling, 40)
    cloud = Cloud(EngineOptions(prefill_rows=7))
    cloud.hear(Open(ONE, tuple(prompt), sampling, max_tokens=40))
    text: list[int] = []
    for number, (length, wrong) in enumerate(drafts, 1):
        left = 40 - len(text)
        if not left:
            break
        guess = truth[len(text) : len(text) + length]
        if wrong and guess:
            guess[-1] ^= 1
        (verdict,) = cloud.verdicts(draft([*prompt, *text], guess, number=number))
        agreed = len(guess) - (wrong and bool(guess))
        assert verdict.accepted == min(agreed, left - 1)
        text += [*guess[: verdict.accepted], verdict.token]
    assert text == truth[: len(text)]


def test_verdict_commits_the_accepted_and_one_token_more():
    truth = continuation(PROMPT, GREEDY, 8)
    cloud = opened()
    (verdict,) = cloud.verdicts(draft(PROMPT, [*truth[:3], truth[3] ^ 1, truth[4]]))
    assert (verdict.accepted, verdict.token, verdict.finish, verdict.base) == (3, truth[3], "", 5)
    assert verdict.timing.computed_us > 0
    assert cloud.engine.statistics.committed == 4


def test_stop_token_inside_a_draft_ends_the_text_there():
    truth = continuation(PROMPT, GREEDY, 8)
    stop = truth[2]
    at = truth.index(stop)
    cloud = opened(stop_tokens=(stop,))
    (verdict,) = cloud.verdicts(draft(PROMPT, truth[:6]))
    assert (verdict.accepted, verdict.token, verdict.finish) == (at, stop, "stop")


def test_length_limit_inside_a_draft_ends_the_text_there():
    truth = continuation(PROMPT, GREEDY, 8)
    cloud = opened(max_tokens=4)
    (verdict,) = cloud.verdicts(draft(PROMPT, truth[:8]))
    assert (verdict.accepted, verdict.token, verdict.finish) == (3, truth[3], "length")
    assert cloud.target.rows <= len(PROMPT) + 4  # nothing beyond the limit was computed


def test_a_context_filled_to_the_last_token():
    cloud = Cloud(target=ToyTarget(vocabulary=VOCABULARY, context=16))
    cloud.hear(Open(ONE, PROMPT, max_tokens=11))
    truth = continuation(PROMPT, GREEDY, 11)
    (verdict,) = cloud.verdicts(draft(PROMPT, [*truth, 1, 2, 3]))
    assert (verdict.accepted, verdict.finish) == (10, "length")


def test_forced_tokens_are_taken_as_given():
    cloud = opened()
    truth = continuation([*PROMPT, 9, 9], GREEDY, 3)
    (verdict,) = cloud.verdicts(draft(PROMPT, [9, 9, truth[0]], forced=2))
    assert (verdict.accepted, verdict.token) == (3, truth[1])


def test_a_forced_stop_token_ends_the_text():
    cloud = opened(stop_tokens=(9,))
    (verdict,) = cloud.verdicts(draft(PROMPT, [8, 9, 10], forced=3))
    assert (verdict.accepted, verdict.token, verdict.finish) == (1, 9, "stop")


def test_prompts_are_read_in_pieces_beside_rounds():
    cloud = opened(EngineOptions(prefill_rows=4, max_rows=80), max_tokens=100)
    long = tuple(range(50))
    cloud.hear(decode(PROMPT, 30))
    cloud.engine.step()
    cloud.engine.step()
    cloud.hear(Open(TWO, long), draft(long, session=TWO))
    passes = 0
    while not any(isinstance(message, Verdict) and message.session == TWO for _, message in cloud.said):
        rows = cloud.target.rows
        assert cloud.engine.step()
        passes += 1
        assert cloud.target.rows - rows <= 5 + 4  # the stream's rows, and no more of the prompt than allowed
    assert passes == pytest.approx(50 / 4, abs=2)
    told = {message.session: message.token for _, message in reversed(cloud.said) if isinstance(message, Verdict)}
    assert told == {ONE: continuation(PROMPT, GREEDY, 1)[0], TWO: continuation(long, GREEDY, 1)[0]}


# --- repeats, and what comes out of order ----------------------------------------------------------------------------


def test_a_repeat_is_answered_from_the_text_without_a_pass():
    cloud = opened()
    truth = continuation(PROMPT, GREEDY, 8)
    request = draft(PROMPT, truth[:3])
    (first,) = cloud.verdicts(request)
    passes = cloud.target.passes
    (again,) = cloud.verdicts(request)
    assert (again.accepted, again.token, again.round) == (first.accepted, first.token, first.round)
    assert cloud.target.passes == passes


def test_a_repeat_of_the_round_in_hand_is_one_verdict():
    cloud = opened()
    request = draft(PROMPT, (1, 2))
    assert len(cloud.verdicts(request, request, request)) == 1


def test_a_round_half_in_the_text_is_judged_by_text_and_model():
    truth = continuation(PROMPT, GREEDY, 8)
    cloud = opened()
    cloud.verdicts(draft(PROMPT, truth[:2]))
    (verdict,) = cloud.verdicts(draft(PROMPT, truth[:6], number=2))
    assert (verdict.base, verdict.accepted, verdict.token) == (5, 6, truth[6])


def test_chained_rounds_wait_for_their_base_and_start_by_themselves():
    truth = continuation(PROMPT, GREEDY, 20)
    first = draft(PROMPT, truth[:3])
    second = draft([*PROMPT, *truth[:4]], truth[4:7], number=2)
    third = draft([*PROMPT, *truth[:8]], truth[8:11], number=3)
    cloud = opened()
    assert cloud.verdicts(third, second) == []
    verdicts = cloud.verdicts(first)
    assert [(verdict.round, verdict.accepted) for verdict in verdicts] == [(1, 3), (2, 3), (3, 3)]


def test_a_chained_round_whose_assumption_fails_is_never_answered():
    truth = continuation(PROMPT, GREEDY, 20)
    first = draft(PROMPT, [truth[0] ^ 1])
    second = draft([*PROMPT, truth[0] ^ 1, 5], (7,), number=2)
    cloud = opened()
    assert [verdict.round for verdict in cloud.verdicts(first, second)] == [1]
    # Nor does the late one keep a new round from its place.
    text = [*PROMPT, truth[0]]
    assert [verdict.round for verdict in cloud.verdicts(draft(text, truth[1:3], number=3))] == [3]


def test_resync_only_for_who_insists():
    cloud = opened()
    wrong = draft((9, 9, 9, 9, 9), number=5)
    cloud.hear(wrong)
    assert cloud.run() == []
    cloud.hear(wrong)
    assert cloud.run() == [Resync(ONE, 1, 5, digest(PROMPT))]


def test_who_insists_on_a_text_that_nothing_leads_to_is_put_right():
    """After a restart a late copy of Open may bring the session back without what was written since."""
    truth = continuation(PROMPT, GREEDY, 4)
    cloud = opened()
    request = draft([*PROMPT, *truth], number=7)
    cloud.hear(request)
    assert cloud.run() == []
    cloud.hear(request)
    assert cloud.run() == [Resync(ONE, 1, 5, digest(PROMPT))]


def test_a_chained_round_repeated_while_its_base_is_being_verified_waits():
    truth = continuation(PROMPT, GREEDY, 9)
    chained = draft([*PROMPT, *truth[:4]], truth[4:6], number=2)
    cloud = opened()
    assert [verdict.round for verdict in cloud.verdicts(draft(PROMPT, truth[:3]), chained, chained)] == [1, 2]


@settings(deadline=None)
@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=6))
def test_any_order_and_any_repeats_of_right_rounds_give_the_text(order, repeats):
    truth = continuation(PROMPT, GREEDY, 24)
    requests = [
        draft([*PROMPT, *truth[: 4 * number]], truth[4 * number : 4 * number + 3], number=number + 1)
        for number in range(6)
    ]
    cloud = opened()
    answered = cloud.verdicts(*(requests[number] for number in [*order, *repeats]))
    answered += cloud.verdicts(*requests)  # the device repeats what it got no answer to
    for number in range(6):
        found = {(verdict.accepted, verdict.token) for verdict in answered if verdict.round == number + 1}
        assert found == {(3, truth[4 * number + 3])}


def test_rounds_of_an_older_epoch_are_ignored_and_of_a_newer_one_need_a_resume():
    cloud = opened(epoch=2)
    assert cloud.verdicts(draft(PROMPT, epoch=1)) == []
    cloud.hear(draft(PROMPT, epoch=3))
    assert cloud.run() == [NeedResume(ONE, 3)]


# --- the cloud alone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_decode_streams_a_token_a_verdict(sampling):
    truth = continuation(PROMPT, sampling, 9)
    cloud = opened(sampling=sampling)
    verdicts = cloud.verdicts(decode(PROMPT, 9))
    assert [verdict.token for verdict in verdicts] == truth
    assert [verdict.base for verdict in verdicts] == list(range(5, 14))


def test_decode_ends_at_the_limit_and_at_a_stop_token():
    truth = continuation(PROMPT, GREEDY, 9)
    assert [verdict.finish for verdict in opened(max_tokens=3).verdicts(decode(PROMPT, 9))] == ["", "", "length"]
    at = truth.index(truth[4])
    finishes = [verdict.finish for verdict in opened(stop_tokens=(truth[4],)).verdicts(decode(PROMPT, 9))]
    assert finishes == [""] * at + ["stop"]


def test_a_repeated_decode_is_answered_from_the_text_and_goes_on():
    truth = continuation(PROMPT, GREEDY, 9)
    cloud = opened()
    cloud.verdicts(decode(PROMPT, 4))
    again = cloud.verdicts(decode(PROMPT, 9, number=2))
    assert [verdict.token for verdict in again] == truth
    assert cloud.target.passes == 9


def test_a_decode_repeated_in_the_middle_changes_nothing():
    cloud = opened()
    request = decode(PROMPT, 6)
    cloud.hear(request)
    cloud.engine.step()
    cloud.engine.step()
    cloud.hear(request)
    assert [verdict.base for verdict in cloud.verdicts()] == [5, 6, 7, 8, 9, 10]


def test_a_newer_round_takes_the_place_of_a_stream():
    truth = continuation(PROMPT, GREEDY, 9)
    cloud = opened()
    cloud.hear(decode(PROMPT, 100))
    for _ in range(3):
        cloud.engine.step()
    verdicts = cloud.verdicts(draft([*PROMPT, *truth[:2]], truth[2:6], number=2))
    assert [verdict.round for verdict in verdicts] == [1, 1, 1, 2]
    assert (verdicts[-1].accepted, verdicts[-1].token) == (4, truth[6])
    assert cloud.engine.step() is False


def test_an_older_round_does_not():
    cloud = opened()
    cloud.hear(decode(PROMPT, 3, number=5))
    assert {verdict.round for verdict in cloud.verdicts(draft(PROMPT, (1,), number=4))} == {5}


# --- sessions --------------------------------------------------------------------------------------------------------


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


def test_forgetting_a_peer_closes_its_sessions_only():
    cloud = opened()
    cloud.hear(Open(TWO, PROMPT), peer="other")
    cloud.engine.forget("device")
    assert cloud.engine.sessions == 1
    cloud.hear(draft(PROMPT), peer="device")
    assert cloud.run() == [NeedResume(ONE)]


def test_answers_follow_a_device_that_comes_back_under_another_name():
    cloud = opened()
    cloud.hear(decode(PROMPT, 2))
    cloud.hear(Open(ONE, PROMPT), peer="the same, elsewhere")
    cloud.engine.step()
    assert [peer for peer, _ in cloud.said] == ["the same, elsewhere"]


# --- several devices -------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("limit", ["sessions", "slots"])
def test_a_session_long_silent_makes_room_and_can_be_resumed(limit):
    truth = continuation(PROMPT, GREEDY, 5)
    cloud = Cloud(
        EngineOptions(max_sessions=2 if limit == "sessions" else 9, idle_s=30.0),
        ToyTarget(vocabulary=VOCABULARY, slots=2 if limit == "slots" else 9),
    )
    three = bytes([3]) * 16
    cloud.hear(Open(ONE, PROMPT), Open(TWO, PROMPT))
    cloud.now_ns += 29 * 10**9
    assert len(cloud.verdicts(draft(PROMPT, session=TWO))) == 1
    cloud.hear(Open(three, PROMPT))
    assert [type(message) for message in cloud.run()] == [Failure]
    cloud.now_ns += 2 * 10**9
    cloud.hear(Open(three, PROMPT))
    assert len(cloud.verdicts(draft(PROMPT, session=three), draft([*PROMPT, truth[0]], number=2, session=TWO))) == 2
    cloud.hear(Close(three), draft(PROMPT, number=2))
    assert cloud.run() == [NeedResume(ONE)]
    cloud.hear(Resume(ONE, 2, PROMPT, 5))
    assert [verdict.token for verdict in cloud.verdicts(decode(PROMPT, 5, number=3, epoch=2))] == truth


def test_a_full_target_refuses_in_the_same_way():
    cloud = Cloud(target=ToyTarget(vocabulary=VOCABULARY, slots=1))
    cloud.hear(Open(ONE, PROMPT), Open(TWO, PROMPT))
    (failure,) = cloud.run()
    assert isinstance(failure, Failure)
    assert (failure.code, failure.session) == ("overloaded", TWO)


# --- what cannot be --------------------------------------------------------------------------------------------------


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


# --- hints -----------------------------------------------------------------------------------------------------------


def test_hints_come_before_the_verdict_once_an_outcome_and_never_touch_it():
    truth = continuation(PROMPT, GREEDY, 60)
    texts, hints = [], 0
    for sure in (0.0, 0.5, 1.1):
        cloud = Cloud(EngineOptions(hint_confidence=sure), ToyTarget(vocabulary=VOCABULARY, exits=(1, 2, 3, 4)))
        cloud.hear(Open(ONE, PROMPT))
        text: list[int] = []
        for number in range(1, 12):
            cloud.hear(draft([*PROMPT, *text], truth[len(text) : len(text) + 3], number=number))
            said = cloud.run()
            *before, verdict = said
            assert isinstance(verdict, Verdict)
            assert all(isinstance(message, Hint) and message.round == number for message in before)
            outcomes = [(hint.accepted, hint.token) for hint in before if isinstance(hint, Hint)]
            assert len(outcomes) == len(set(outcomes))
            assert all(0 <= hint.accepted <= 3 and 0.0 <= hint.confidence <= 1.0 for hint in before)  # type: ignore[union-attr]
            hints += len(before)
            assert sure <= 1.0 or not before
            text += [*truth[len(text) : len(text) + verdict.accepted], verdict.token]
        texts.append(text)
        assert cloud.engine.statistics.hints_confirmed <= cloud.engine.statistics.hints
    assert texts[0] == texts[1] == texts[2] == truth[: len(texts[0])]
    assert hints > 0


def test_nothing_is_spent_on_hints_that_nobody_wants():
    cloud = opened(EngineOptions(hint_confidence=0.0), hints=False)
    cloud.hear(draft(PROMPT, (1, 2)))
    assert [type(message) for message in cloud.run()] == [Verdict]


def test_statistics_add_up():
    truth = continuation(PROMPT, GREEDY, 30)
    cloud = opened()
    cloud.verdicts(draft(PROMPT, truth[:4]))
    cloud.verdicts(decode([*PROMPT, *truth[:5]], 5, number=2))
    statistics = cloud.engine.statistics
    assert (statistics.rounds, statistics.drafted, statistics.accepted, statistics.committed) == (6, 4, 4, 10)
    assert statistics.passes == cloud.target.passes
    assert statistics.rows == cloud.target.rows
    assert statistics.model_us > 0
    assert statistics.outside_us >= 0
