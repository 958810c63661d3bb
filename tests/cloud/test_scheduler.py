"""Who gets rows, and when a pass waits: the rules, with a clock that is handed in."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foredraft_cloud.cost import PassCost
from foredraft_cloud.rhythm import Rhythm
from foredraft_cloud.scheduler import PATIENCE_US, Expected, Scheduler, Waiting

MS = 1000.0


def cost(**milliseconds: float) -> PassCost:
    """``cost(r1=20, r16=30)``: passes that took so long, often enough to be believed."""
    known = PassCost()
    for rows, each in milliseconds.items():
        for _ in range(5):
            known.observe(int(rows[1:]), each * MS)
    return known


def scheduler(known: PassCost | None = None, *, max_rows: int = 32, prefill_rows: int = 16, gather_ms: float = 10):
    return Scheduler[str](max_rows, prefill_rows, gather_ms * MS, known or PassCost())


def round_(
    key: str, rows: int = 4, *, device: str = "", since_ms: float = 0, due_ms: float | None = None
) -> Waiting[str]:
    due_us = None if due_ms is None else due_ms * MS
    return Waiting(key, device or key, rows, True, since_ms * MS, due_us)


def prompt(key: str, rows: int, *, served: int = 0) -> Waiting[str]:
    return Waiting(key, key, rows, False, 0.0, None, served)


def chosen(of: Scheduler[str], waiting: list[Waiting[str]], now_ms: float = 0) -> dict[str, int]:
    given_out: dict[str, int] = {}

    def take(one: Waiting[str], rows: int) -> int:
        assert 0 < rows <= one.rows
        given_out[one.key] = rows
        return rows

    assert of.choose(waiting, now_ms * MS, take) == sum(given_out.values())
    return given_out


# --- who comes first


def test_the_least_time_left_comes_first():
    waiting = [round_("b", due_ms=90), round_("a", due_ms=30), round_("c", since_ms=-5)]
    assert [each.key for each in scheduler().order(waiting)] == ["a", "b", "c"]


def test_who_has_waited_longer_than_patience_comes_before_any_deadline():
    late = round_("late", since_ms=-PATIENCE_US / MS - 1)
    assert [each.key for each in scheduler().order([round_("hurry", due_ms=1), late])] == ["late", "hurry"]


def test_a_device_with_many_sessions_gets_one_of_them_in_before_the_second():
    waiting = [round_(f"many {number}", device="many", due_ms=1) for number in range(8)]
    waiting += [round_("one"), round_("two")]
    assert [each.key for each in scheduler().order(waiting)][:3] == ["many 0", "one", "two"]
    assert set(chosen(scheduler(max_rows=20), waiting)) == {"many 0", "one", "two", "many 1", "many 2"}


def test_prompts_take_turns():
    waiting = [prompt("a", 100, served=7), prompt("b", 100, served=3)]
    assert chosen(scheduler(), waiting) == {"b": 32}


# --- how the rows are divided


def test_rounds_and_prompts_share_a_pass_and_neither_starves_the_other():
    waiting = [*(round_(str(number), 8) for number in range(9)), prompt("p", 500)]
    given_out = chosen(scheduler(), waiting)
    assert given_out.pop("p") == 16
    assert given_out == {"0": 8, "1": 8}


def test_a_prompt_alone_gets_every_row():
    assert chosen(scheduler(), [prompt("p", 500)]) == {"p": 32}


def test_a_prompt_nearly_read_leaves_its_rows_to_rounds():
    waiting = [*(round_(str(number), 8) for number in range(9)), prompt("p", 3)]
    assert chosen(scheduler(), waiting) == {"0": 8, "1": 8, "2": 8, "p": 3}


def test_a_round_is_never_cut_and_the_first_always_fits():
    waiting = [round_("long", 30), round_("short", 4), prompt("p", 500)]
    assert chosen(scheduler(), waiting) == {"long": 30, "p": 2}
    assert chosen(scheduler(max_rows=33), waiting) == {"long": 30, "p": 3}


def test_who_has_to_wait_for_another_reason_leaves_the_rows_to_the_next():
    taken = []

    def take(one: Waiting[str], rows: int) -> int:
        taken.append(one.key)
        return 0 if one.key == "a" else rows

    assert scheduler(max_rows=16).choose([round_("a", 16), round_("b", 16)], 0.0, take) == 16
    assert taken == ["a", "b"]


def test_prompts_give_way_to_a_deadline_that_they_would_break():
    known = cost(r4=20, r24=60)  # 2 ms a row
    waiting = [round_("a", 4, due_ms=40), prompt("p", 500)]
    assert chosen(scheduler(known), waiting)["p"] == 8
    assert chosen(scheduler(known), waiting, now_ms=-100)["p"] == 16
    assert chosen(scheduler(), waiting)["p"] == 16  # nobody knows what a pass takes


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 16)), min_size=1, max_size=12), st.integers(0, 200))
def test_everybody_is_served_before_long(sessions: list[tuple[int, int]], unread: int):
    """Devices that always want more, some in a hurry, a prompt beside them: nobody waits for ever."""
    of = scheduler()
    since = dict.fromkeys(range(len(sessions)), 0.0)
    passes = Counter[int]()
    turns = 120
    for turn in range(turns):
        now_ms = turn * 20.0
        waiting = [
            Waiting(
                str(number),
                device,
                rows,
                True,
                since[number] * MS,
                (since[number] + 1) * MS if device == 0 else None,
            )
            for number, (device, rows) in enumerate(sessions)
        ]
        if unread:
            waiting.append(prompt("p", unread))
        for key, rows in chosen(of, waiting, now_ms).items():
            if key == "p":
                unread -= rows
            else:
                since[int(key)] = now_ms
                passes[int(key)] += 1
    assert unread == 0
    devices = {device for device, _ in sessions}
    for device in devices:
        assert sum(passes[number] for number, (each, _) in enumerate(sessions) if each == device) >= turns / 16


# --- waiting for company


FLAT = {"r1": 30.0, "r4": 30.0, "r8": 31.0, "r16": 33.0}


def test_a_pass_waits_for_a_round_about_to_come_where_that_pays():
    waiting, soon = [round_("a")], [Expected(5 * MS, 4)]
    assert scheduler(cost(**FLAT)).pause_us(waiting, soon, 0.0) == 5 * MS


@pytest.mark.parametrize(
    ("why", "known", "waiting", "expected"),
    [
        ("nobody is expected", FLAT, [round_("a")], []),
        ("nothing is known", {}, [round_("a")], [Expected(5 * MS, 4)]),
        ("it comes too late", FLAT, [round_("a")], [Expected(11 * MS, 4)]),
        ("rows are dear", {"r1": 10.0, "r4": 40.0, "r8": 80.0}, [round_("a")], [Expected(5 * MS, 4)]),
        ("a deadline would break", FLAT, [round_("a", due_ms=34)], [Expected(5 * MS, 4)]),
        ("there is a prompt to read", FLAT, [round_("a"), prompt("p", 9)], [Expected(5 * MS, 4)]),
        ("many would wait for one", FLAT, [round_(str(n), 1) for n in range(9)], [Expected(9 * MS, 4)]),
        ("nobody is ready", FLAT, [], [Expected(5 * MS, 4)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_does_not_wait_where(
    why: str, known: dict[str, float], waiting: list[Waiting[str]], expected: list[Expected]
):
    assert scheduler(cost(**known)).pause_us(waiting, expected, 0.0) == 0.0


def test_it_never_waits_longer_than_the_window_in_all():
    of = scheduler(cost(**FLAT))
    assert of.pause_us([round_("a")], [Expected(6 * MS, 4)], 0.0) == 6 * MS
    assert of.pause_us([round_("a")], [Expected(9 * MS, 4)], 6 * MS) == 3 * MS
    assert of.pause_us([round_("a")], [Expected(12 * MS, 4)], 9 * MS) == 0.0


def test_no_window_no_waiting():
    assert scheduler(cost(**FLAT), gather_ms=0).pause_us([round_("a")], [Expected(MS, 4)], 0.0) == 0.0


# --- what is known


def test_a_cost_is_believed_after_three_passes_and_follows_the_newest():
    known = PassCost()
    for _ in range(2):
        known.observe(4, 100.0)
    assert known.estimate(4) is None
    known.observe(4, 100.0)
    assert known.estimate(3) == 100.0
    for _ in range(60):
        known.observe(4, 200.0)
    assert known.estimate(4) == pytest.approx(200.0, abs=1.0)


def test_between_two_known_costs_lies_the_third_and_beyond_them_it_goes_on():
    known = cost(r8=20, r16=28)
    assert known.estimate(12) == pytest.approx(24 * MS)
    assert known.estimate(32) == pytest.approx(44 * MS)
    assert known.estimate(4) == pytest.approx(16 * MS)


def test_a_device_is_expected_only_if_it_is_regular():
    regular, erratic = Rhythm(), Rhythm()
    assert regular.gap_us is None
    for number in range(20):
        regular.observe(20_000 + 500 * (number % 2))
        erratic.observe(2_000 + 40_000 * (number % 2))
    assert regular.gap_us == pytest.approx(20_500, abs=500)
    assert erratic.gap_us is None
