"""What is read from a text that something was done to."""

from __future__ import annotations

from typing import Any

import pytest

from foredraft_bench.faults.edge import Order
from foredraft_bench.faults.injuries import Injury
from foredraft_bench.faults.texts import SAVED, Event, Text
from foredraft_bench.faults.verdicts import Row, judge, told_in_two

PROMPT_LENGTH = 3
TEXT = (10, 11, 12, 13, 14, 15)


def token(position: int, at: float, token_id: int | None = None, **how: Any) -> Event:
    told = TEXT[position - PROMPT_LENGTH] if token_id is None else token_id
    return Event(at, position, told, how.pop("origin", "target"), **how)


def row(events: list[Event], injury: Injury | None = None, **how: Any) -> Row:
    text = Text(Order("one", "tcp://127.0.0.1:1", [1, 2, 3], 6), events, ended_at=9.0)
    for name, value in how.items():
        setattr(text, name, value)
    return judge(
        "a fault", "greedy", "cloud", events, text, TEXT, PROMPT_LENGTH, injury or Injury(began=2.0, healed=4.0)
    )


WHOLE = [token(3, 1.0), token(4, 1.5), token(5, 1.9), token(6, 4.25), token(7, 4.5), token(8, 5.0)]


def test_a_whole_text_is_right_and_timed() -> None:
    judged = row(WHOLE)
    assert judged.right
    assert (judged.edge_ms, judged.back_ms, judged.silence_ms) == (None, 250.0, 2350.0)
    assert judged.seconds == 7.0
    assert "no edge token" in judged.note


def test_a_fault_is_felt_when_verified_tokens_no_longer_come() -> None:
    alone = [token(position, at, provisional=True) for position, at in ((6, 3.25), (7, 3.5), (8, 3.75))]
    judged = row([*WHOLE[:3], *alone, *WHOLE[3:]])
    assert (judged.edge_ms, judged.silence_ms) == (1250.0, 1350.0)  # struck at 2.0; the last token was there before
    judged = row([*WHOLE[:2], token(5, 3.0), *alone, *WHOLE[3:]])
    assert (judged.edge_ms, judged.silence_ms) == (250.0, 1500.0)  # nobody noticed for a second


def test_where_the_whole_text_was_told_nothing_is_awaited() -> None:
    alone = [token(position, 2.0 + 0.25 * position, provisional=True) for position in (6, 7, 8)]
    late = [token(position, 100.0 + position) for position in (6, 7, 8)]
    assert row([*WHOLE[:3], *alone, *late]).silence_ms == 1600.0


def test_a_token_that_never_came_is_lost() -> None:
    judged = row(WHOLE[:4] + WHOLE[5:])
    assert not judged.right
    assert (judged.lost, judged.doubled, judged.identical) == (1, 0, False)


def test_a_token_that_came_twice_is_doubled() -> None:
    judged = row([*WHOLE, token(8, 5.1)])
    assert not judged.right
    assert (judged.lost, judged.doubled, judged.identical) == (0, 1, False)


def test_a_wrong_token_is_neither_lost_nor_doubled_but_not_identical() -> None:
    judged = row([*WHOLE[:5], token(8, 5.0, 99)])
    assert not judged.right
    assert (judged.lost, judged.doubled, judged.identical) == (0, 0, False)


def test_tokens_in_the_wrong_order_are_not_identical() -> None:
    judged = row([*WHOLE[:4], WHOLE[5], WHOLE[4]])
    assert (judged.lost, judged.doubled, judged.identical) == (0, 0, False)


def test_provisional_tokens_are_timed_but_count_as_nothing() -> None:
    alone = [
        token(6, 2.3, 77, origin="edge", provisional=True),
        token(7, 2.4, 78, origin="edge", provisional=True),
    ]
    after = [token(6, 4.25, revised=True), *WHOLE[4:]]
    judged = row([*WHOLE[:3], *alone, *after])
    assert judged.right
    assert (judged.edge_ms, judged.back_ms) == (300.0, 250.0)
    assert (judged.provisional, judged.revised) == (2, 1)
    assert "edge" not in judged.note


def test_a_text_that_does_not_end_hangs() -> None:
    judged = row(WHOLE[:3], ended_at=None)
    assert judged.hung
    assert judged.lost == 3
    assert not judged.right


def test_what_ended_a_text_too_early_is_told() -> None:
    judged = row(WHOLE[:3], error="LinkLost: nobody there")
    assert judged.error == "LinkLost: nobody there"
    assert not judged.right


def test_what_was_at_the_device_before_a_reset_does_not_count_as_its_recovery() -> None:
    events = [token(3, 1.0), token(4, 2.001), token(5, 2.002), token(6, 2.5), token(7, 2.51), token(8, 3.4)]
    assert row(events, Injury(began=2.0, healed=2.0)).back_ms == 500.0


def test_a_fault_without_an_end_has_no_time_of_recovery() -> None:
    judged = row(WHOLE, Injury(2.0, 2.0, back_note="nothing heals"))
    assert judged.back_ms is None
    assert "nothing heals" in judged.note


def text_of(events: list[Event], restored: list[Event] | None = None) -> Text:
    return Text(Order("one", "tcp://127.0.0.1:1", [1, 2, 3], 6), events, restored=restored, ended_at=9.0)


def saved(positions: range) -> list[Event]:
    return [token(position, 3.0, origin=SAVED) for position in positions]


def judged_in_two(first: Text, second: Text) -> Row:
    injury = Injury(began=1.95, healed=2.5)
    return judge("a fault", "greedy", "cloud", told_in_two(first, second), second, TEXT, PROMPT_LENGTH, injury)


def test_a_text_taken_up_goes_on_where_it_was_told() -> None:
    judged = judged_in_two(text_of(WHOLE[:3]), text_of(WHOLE[3:], saved(range(3, 6))))
    assert judged.right
    assert judged.back_ms == 1750.0


def test_what_was_saved_but_not_told_is_told_when_the_text_is_taken_up_and_is_no_sign_of_the_server() -> None:
    judged = judged_in_two(text_of(WHOLE[:2]), text_of(WHOLE[3:], saved(range(3, 6))))
    assert judged.right
    assert judged.back_ms == 1750.0


def test_what_was_told_but_not_saved_is_doubled() -> None:
    judged = judged_in_two(text_of(WHOLE[:3]), text_of(WHOLE[2:], saved(range(3, 5))))
    assert (judged.lost, judged.doubled, judged.identical) == (0, 1, False)


@pytest.mark.parametrize("wrong", ["identical", "lost", "doubled", "hung"])
def test_a_scene_is_as_wrong_as_the_worst_text_in_it(wrong: str) -> None:
    values: dict[str, Any] = {"identical": WHOLE[:5], "lost": WHOLE[1:], "doubled": [*WHOLE, WHOLE[5]], "hung": WHOLE}
    other = row(values[wrong], **({"ended_at": None} if wrong == "hung" else {}))
    joined = row(WHOLE).worse(other)
    assert not joined.right
    assert getattr(joined, wrong) == getattr(other, wrong)
