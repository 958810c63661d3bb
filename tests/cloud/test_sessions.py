"""A session's bookkeeping, without model or engine: what is taken on, what is answered at once, what waits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from foredraft_cloud.sessions import MAX_AHEAD, MAX_TOLD_AGAIN, Session
from foredraft_shared.ledger import EMPTY_DIGEST, extend_digest
from foredraft_shared.messages import Decode, Draft, Open, Resume, Resync, Verdict

PROMPT = (10, 11, 12, 13)
TEXT = tuple(range(20, 60))
"""What the target says after the prompt."""
NAME = bytes(16)


@dataclass
class FakeSlot:
    length: int = 0


def pick(row: int, position: int) -> int:
    return TEXT[position - len(PROMPT)]


def session(**how: object) -> Session:
    return Session(Open(NAME, PROMPT, **how), "device", FakeSlot())  # type: ignore[arg-type]


def draft(written: int, tokens: tuple[int, ...] = (), number: int = 1, *, forced: int = 0, epoch: int = 1) -> Draft:
    text = (*PROMPT, *TEXT[:written])
    return Draft(NAME, epoch, number, len(text), extend_digest(EMPTY_DIGEST, text), tokens, forced)


def decode(written: int, count: int, number: int = 1) -> Decode:
    text = (*PROMPT, *TEXT[:written])
    return Decode(NAME, 1, number, len(text), extend_digest(EMPTY_DIGEST, text), count)


def commit(held: Session, now_us: int = 0, computed_us: int = 0) -> list[Verdict | Resync]:
    """One pass, as the engine would do it."""
    run = held.round_run()
    held.slot.length += len(run.tokens)
    answers = list(held.commit(pick, run.scored, now_us, computed_us))
    held.slot.length = min(held.slot.length, held.ledger.length - 1)
    return answers


def test_a_round_run_feeds_what_is_unread_and_the_draft():
    held = session()
    assert held.unread == 4
    assert list(held.receive(draft(0, TEXT[:3]), 0)) == []
    run = held.round_run()
    assert run.tokens == (*PROMPT, *TEXT[:3])
    assert run.scored == 4


def test_after_a_commit_one_token_is_unread():
    held = session()
    list(held.receive(draft(0, (*TEXT[:2], 99)), 0))
    commit(held)
    assert held.ledger.tokens == [*PROMPT, *TEXT[:3]]
    assert held.unread == 1
    assert held.round is None


def test_prompt_runs_are_pieces_and_leave_the_last_token():
    held = session()
    fed: list[int] = []
    for _ in range(5):
        piece = held.prompt_run(2)
        assert piece.scored == 0
        held.slot.length += len(piece.tokens)
        fed.extend(piece.tokens)
    assert tuple(fed) == PROMPT[:-1]


def test_a_draft_is_cut_where_the_limit_leaves_no_room():
    held = session(max_tokens=3)
    list(held.receive(draft(0, TEXT[:10]), 0))
    assert held.round_run().scored == 3
    (verdict,) = commit(held)
    assert isinstance(verdict, Verdict)
    assert (verdict.accepted, verdict.finish) == (2, "length")
    assert held.finished


@pytest.mark.parametrize("request_", [draft(3, (1,), 9), decode(3, 5, 9)])
def test_nothing_begins_on_a_text_that_is_complete(request_: Draft | Decode):
    held = session(max_tokens=3)
    list(held.receive(decode(0, 3), 0))
    for _ in range(3):
        commit(held)
    assert held.finished
    answers = list(held.receive(request_, 0))
    assert all(isinstance(answer, Resync) for answer in answers)
    assert held.round is None


def test_times_of_a_round_are_told_apart():
    held = session()
    list(held.receive(draft(0, TEXT[:1]), 1_000))
    (verdict,) = commit(held, now_us=9_000, computed_us=5_000)
    assert isinstance(verdict, Verdict)
    assert (verdict.timing.queued_us, verdict.timing.computed_us) == (3_000, 5_000)


def test_times_of_a_stream_begin_anew_with_each_token():
    held = session()
    list(held.receive(decode(0, 3), 1_000))
    timings = []
    for now_us in (6_000, 10_000, 14_000):
        (verdict,) = commit(held, now_us, 4_000)
        assert isinstance(verdict, Verdict)
        timings.append((verdict.timing.queued_us, verdict.timing.computed_us))
    assert timings == [(1_000, 4_000), (0, 4_000), (0, 4_000)]


def test_rounds_ahead_are_kept_up_to_a_bound():
    held = session()
    for number in range(1, 3 * MAX_AHEAD):
        list(held.receive(draft(number, TEXT[number : number + 1], number), 0))
    assert held.round is None
    assert len(held._ahead) == MAX_AHEAD


def test_a_repeated_decode_is_answered_from_the_text_up_to_a_bound():
    held = session(max_tokens=10 * MAX_TOLD_AGAIN)
    held.ledger.extend(range(3 * MAX_TOLD_AGAIN))
    answers = list(held.receive(decode(0, 2**32 - 1), 0))
    assert [answer.base for answer in answers if isinstance(answer, Verdict)] == [4 + n for n in range(MAX_TOLD_AGAIN)]
    assert held.round is None  # the device asks on from there


def test_what_is_given_up_is_taken_on_again_when_it_is_repeated():
    held = session()
    list(held.receive(draft(0, TEXT[:3]), 0))
    list(held.receive(draft(4, TEXT[4:6], 2), 0))
    held.give_up()
    assert held.round is None
    assert list(held.receive(draft(0, TEXT[:3]), 0)) == []
    (verdict,) = commit(held)
    assert isinstance(verdict, Verdict)
    assert (verdict.round, verdict.accepted) == (1, 3)


def test_rounds_ahead_that_were_passed_by_are_forgotten():
    held = session()
    list(held.receive(draft(2, TEXT[2:4], 2), 0))
    wrong = Draft(NAME, 1, 3, 8, 12345, (1, 2))
    list(held.receive(wrong, 0))
    list(held.receive(draft(0, TEXT[:6], 4), 0))
    answers = commit(held)
    assert next(answer.round for answer in answers if isinstance(answer, Verdict)) == 4
    assert held._ahead == {}


def test_a_hint_says_what_the_verdict_would_be_and_changes_nothing():
    held = session(stop_tokens=(TEXT[2],))
    list(held.receive(draft(0, TEXT[:5]), 0))
    expected = held.hint(pick, 9)
    assert (expected.accepted, expected.token, expected.finish) == (2, TEXT[2], "stop")
    assert held.ledger.length == len(PROMPT)
    (verdict,) = commit(held)
    assert isinstance(verdict, Verdict)
    assert (verdict.accepted, verdict.token) == (expected.accepted, expected.token)


def test_forced_tokens_are_not_asked_for():
    held = session()
    list(held.receive(draft(0, (7, 8, 99), forced=2), 0))
    asked: list[int] = []

    def picking(row: int, position: int) -> int:
        asked.append(row)
        return 50

    held.slot.length = 7
    (verdict,) = held.commit(picking, 4, 0, 0)
    assert isinstance(verdict, Verdict)
    assert (verdict.accepted, verdict.token) == (2, 50)
    assert asked == [2]


def test_a_resumed_session_knows_where_its_prompt_ended():
    held = Session(Resume(NAME, 4, (*PROMPT, *TEXT[:3]), 4, max_tokens=4, stop_tokens=(11,)), "device", FakeSlot())
    assert held.limit == 8
    assert held.ledger.epoch == 4
    assert not held.finished  # 11 stands in the prompt
    list(held.receive(draft(3, (), 5, epoch=4), 0))
    (verdict,) = commit(held)
    assert isinstance(verdict, Verdict)
    assert (verdict.token, verdict.finish) == (TEXT[3], "length")
