"""Whether the server is there, from instants alone."""

from __future__ import annotations

from itertools import pairwise

import pytest

from foredraft_edge.watch import SessionState, Watch

MS = 1_000_000


def watch() -> Watch:
    """One that has asked at 0 and waits 300 ms for a verdict and 200 ms for a pong."""
    machine = Watch(0)
    machine.patience(0.3, 0.2)
    machine.asked(0, reads=False)
    return machine


def test_it_says_nothing_while_an_answer_may_still_be_on_its_way():
    machine = watch()
    assert machine.next_ns() == 300 * MS
    assert machine.tick(299 * MS) == []
    assert machine.state is SessionState.CONNECTING


def test_a_late_verdict_makes_suspect_and_is_asked_for_again():
    machine = watch()
    assert machine.tick(300 * MS) == ["repeat", "ping"]
    assert machine.state is SessionState.SUSPECT
    machine.answered(310 * MS, owed=False)
    assert machine.state is SessionState.ACTIVE
    assert machine.tick(10_000 * MS) == []


def test_without_a_pong_the_server_is_gone():
    machine = watch()
    machine.tick(300 * MS)
    assert machine.next_ns() == 500 * MS
    assert machine.tick(500 * MS) == ["ping"]
    assert machine.state is SessionState.EDGE_ONLY
    assert machine.alone


def test_with_a_pong_it_is_only_slow():
    machine = watch()
    machine.tick(300 * MS)
    assert not machine.heard(320 * MS)
    assert machine.tick(500 * MS) == []
    assert machine.state is SessionState.SUSPECT
    assert not machine.alone


def test_slow_for_long_is_as_good_as_gone_for_who_can_go_on_alone():
    machine = watch()
    for at_ms in range(10, 3000, 10):
        if "ping" in machine.tick(at_ms * MS):
            machine.heard(at_ms * MS)
    assert machine.state is SessionState.SUSPECT
    assert machine.alone


def test_who_reads_a_long_prompt_is_not_called_slow():
    machine = Watch(0)
    machine.asked(0, reads=True)
    machine.asked(1, reads=False)  # the next round, behind it
    for at_ms in range(10, 60_000, 10):
        if "ping" in machine.tick(at_ms * MS):
            machine.heard(at_ms * MS)
    assert not machine.alone


def test_it_was_alive_once_but_no_longer_answers():
    machine = watch()
    machine.tick(300 * MS)
    machine.heard(320 * MS)
    at_ms = 320
    while machine.state is not SessionState.EDGE_ONLY:
        at_ms += 10
        machine.tick(at_ms * MS)
        assert at_ms < 3000


def test_while_it_is_gone_pings_probe_and_the_connection_is_made_anew_now_and_then():
    machine = watch()
    machine.unreachable(0)
    said = [action for at_ms in range(0, 10_000, 50) for action in machine.tick(at_ms * MS)]
    assert 30 < said.count("ping") < 45
    assert 6 <= said.count("reconnect") <= 13
    assert "repeat" not in said


@pytest.mark.parametrize("heard", [False, True])
def test_a_server_of_unknown_distance_is_given_longer_each_time_to_be_connected(heard: bool):
    machine = Watch(0)
    machine.asked(0, reads=False)
    if heard:
        machine.heard(0)
    machine.unreachable(0)
    tries = [at_ms for at_ms in range(0, 20_000, 10) if "reconnect" in machine.tick(at_ms * MS)]
    pauses = [after - before for before, after in pairwise(tries)]
    if heard:
        assert max(pauses) <= 1000
    else:
        assert pauses == sorted(pauses)
        assert 4000 <= pauses[-1] < 5000, "a handshake over a satellite takes two seconds"


def test_the_first_word_from_it_means_that_it_is_back():
    machine = watch()
    machine.unreachable(0)
    assert machine.heard(5000 * MS)
    assert machine.state is SessionState.RESUMING
    assert machine.alone, "nothing has been verified yet"
    machine.answered(5100 * MS, owed=True)
    assert machine.state is SessionState.ACTIVE
    assert not machine.alone


def test_back_and_gone_again():
    machine = watch()
    machine.unreachable(0)
    machine.heard(5000 * MS)
    assert machine.tick(5300 * MS) == ["repeat", "ping"]
    assert machine.tick(5500 * MS) == ["ping"]
    assert machine.state is SessionState.EDGE_ONLY


def test_who_was_refused_asks_again_when_told_to():
    machine = watch()
    machine.refused(100 * MS, retry_after_s=2.0)
    assert machine.next_ns() == 2100 * MS
    assert not machine.heard(500 * MS)
    assert machine.tick(2000 * MS) == []
    assert "ping" in machine.tick(2100 * MS)
    assert machine.heard(2101 * MS)


def test_where_nothing_is_asked_no_wait_is_over_before_it_began():
    machine = watch()
    machine.answered(1000 * MS, owed=False)
    for now in (2000 * MS, 6000 * MS, 60_000 * MS):
        assert machine.tick(now) == []
        assert machine.next_ns() > now


def test_the_caller_s_own_time_is_nobody_s_silence():
    machine = watch()
    machine.excuse(60_000 * MS)
    assert machine.tick(60_299 * MS) == []
    assert machine.state is SessionState.CONNECTING
