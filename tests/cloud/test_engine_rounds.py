"""Rounds over the toy target: whatever devices say, and however often, the text is the target's own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from engine_world import GREEDY, ONE, PROMPT, SAMPLED, TWO, Cloud, decode, digest, draft, opened
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import VOCABULARY, continuation

from foredraft_cloud.engine import EngineOptions
from foredraft_cloud.toy import ToyTarget
from foredraft_shared.messages import (
    Hint,
    NeedResume,
    Open,
    Resync,
    Verdict,
)

tokens = st.integers(0, VOCABULARY - 1)
params = st.sampled_from([GREEDY, SAMPLED])


# --- drafts ---------------------------------------------------------------------------------------------------------


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


# --- repeats, and what comes out of order ---------------------------------------------------------------------------


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


@pytest.mark.parametrize("epoch", [1, 3])
def test_rounds_of_another_epoch_need_a_resume_in_theirs(epoch):
    """Of an older one, too: it may be another device's, by the same routing id on the same channel, which would wait for ever."""
    cloud = opened(epoch=2)
    cloud.hear(draft(PROMPT, epoch=epoch))
    assert cloud.run() == [NeedResume(ONE, epoch)]
    assert len(cloud.verdicts(draft(PROMPT, epoch=2))) == 1


# --- the cloud alone ------------------------------------------------------------------------------------------------


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


# --- hints ----------------------------------------------------------------------------------------------------------


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


def test_no_exit_is_asked_about_a_device_that_is_mostly_right_and_its_next_text_is_known_from_the_last():
    truth = continuation(PROMPT, GREEDY, 60)
    cloud = Cloud(EngineOptions(hint_confidence=0.0))
    cloud.hear(Open(ONE, PROMPT, max_tokens=60))

    def hinted(session: bytes, start: int, guess: Sequence[int], number: int, peer: str = "device") -> bool:
        text = [*PROMPT, *truth[:start]]
        cloud.hear(draft(text, guess, session=session, number=number), peer=peer)
        return any(isinstance(message, Hint) for message in cloud.run())

    said = [hinted(ONE, start, truth[start : start + 3], 1 + start // 4) for start in range(0, 40, 4)]
    assert said[0], "nobody knows it yet"
    assert not any(said[5:]), "what it drafts on already is likelier than any hint"
    cloud.hear(Open(TWO, PROMPT))
    assert not hinted(TWO, 0, truth[:3], 1)
    cloud.hear(Open(bytes([3]) * 16, PROMPT), peer="another")
    assert hinted(bytes([3]) * 16, 0, truth[:3], 1, "another")
    wrong = [(token + 1) % VOCABULARY for token in truth]
    assert any(hinted(ONE, start, wrong[start : start + 3], 100 + start) for start in range(40, 59))


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
