"""The queue before the model thread has bounds, and a flood does not keep its reader from the passes."""

from __future__ import annotations

import threading

from foredraft_cloud.inbox import Inbox


def nothing() -> None:
    """An errand."""


def test_a_device_gets_no_more_room_than_its_share():
    inbox = Inbox(per_device=2, messages=100)
    assert [inbox.put("loud", nothing) for _ in range(4)] == [True, True, False, False]
    assert inbox.put("quiet", nothing)
    assert len(inbox.take(0.0)) == 3
    assert inbox.put("loud", nothing)  # room again


def test_all_devices_together_have_bounds_in_messages_and_in_tokens():
    inbox = Inbox(per_device=10, messages=3, tokens=100)
    assert inbox.put("a", nothing, tokens=60)
    assert not inbox.put("b", nothing, tokens=41)
    assert inbox.put("b", nothing, tokens=40)
    assert inbox.put("c", nothing)
    assert not inbox.put("d", nothing)


def test_one_text_beyond_the_bound_is_read_when_nothing_else_waits():
    inbox = Inbox(tokens=100)
    assert inbox.put("a", nothing, tokens=5000)
    assert not inbox.put("b", nothing, tokens=1)
    inbox.take(0.0)
    assert inbox.put("b", nothing, tokens=1)


def test_the_server_s_own_errands_always_fit_and_come_in_order():
    inbox = Inbox(per_device=1, messages=1)
    done: list[int] = []
    assert inbox.put("a", lambda: done.append(1))
    inbox.tell(lambda: done.append(2))
    for errand in inbox.take(0.0):
        errand()
    assert done == [1, 2]


def test_what_comes_while_the_reader_works_is_for_the_next_time():
    inbox = Inbox()
    inbox.put("a", lambda: inbox.put("a", nothing))
    for errand in inbox.take(0.0):
        errand()
    assert len(inbox) == 1


def test_an_errand_ends_the_wait():
    inbox = Inbox()
    timer = threading.Timer(0.05, inbox.tell, (nothing,))
    timer.start()
    assert inbox.take(10.0) == [nothing]
    timer.join()
    assert inbox.take(0.01) == []


def test_what_is_told_once_waits_once():
    inbox = Inbox()
    for _ in range(3):
        inbox.tell_once(nothing)
    assert inbox.take(0.0) == [nothing]
    inbox.tell_once(nothing)
    assert inbox.take(0.0) == [nothing]
