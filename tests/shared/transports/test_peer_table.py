"""What is kept for each peer has bounds; who was silent longest goes first, and nobody is pushed out by another device."""

from __future__ import annotations

from foredraft_shared.clock import ManualClock
from foredraft_shared.errors import PromptTooLong
from foredraft_shared.messages import Draft, Failure, NeedResume, Open, Ping
from foredraft_shared.transports.base import Peer
from foredraft_shared.transports.cloud_end import (
    BEHIND_S,
    MAX_CHANNELS,
    MESSAGES_PER_SECOND,
    MESSAGES_PER_SECOND_WHEN_BEHIND,
    CloudEnd,
)
from foredraft_shared.transports.peer_table import MAX_ANONYMOUS_PEERS, MAX_PEERS_OF_ONE_IDENTITY, PeerTable
from foredraft_shared.wire import Codec


def peer(number: int, identity: str = "") -> Peer:
    return Peer(number.to_bytes(4, "big"), identity)


def test_the_peer_silent_longest_is_forgotten_first():
    table: PeerTable[list[int]] = PeerTable(list, most_anonymous=2)
    table.entry(peer(1)).append(1)
    table.entry(peer(2))
    assert table.entry(peer(1)) == [1]
    table.entry(peer(3))
    assert list(table) == [peer(1), peer(3)]
    assert peer(2) not in table


def test_one_device_pushes_out_only_its_own():
    table: PeerTable[None] = PeerTable(lambda: None, most_of_one=2)
    table.entry(peer(0, "quiet"))
    for number in range(100):
        table.entry(peer(number, "loud"))
    assert table.of("loud") == [peer(98, "loud"), peer(99, "loud")]
    assert table.of("quiet") == [peer(0, "quiet")]
    assert len(table) == 3


def test_nothing_is_left_of_who_is_forgotten():
    table: PeerTable[None] = PeerTable(lambda: None)
    table.entry(peer(1, "a"))
    table.forget(peer(1, "a"))
    table.forget(peer(2, "b"))
    assert (len(table), list(table), table._of) == (0, [], {})


def test_a_listener_keeps_few_codecs_and_few_channels_in_each():
    end, edge = CloudEnd(ManualClock()), Codec()
    ping = edge.encode(Ping(1))
    for number in range(MAX_ANONYMOUS_PEERS + 50):
        end.decode(peer(number), ping)
    for number in range(100):
        end.decode(peer(number, "robot"), ping)
    assert len(end._codecs) == MAX_ANONYMOUS_PEERS + MAX_PEERS_OF_ONE_IDENTITY
    for number in range(MAX_CHANNELS + 50):
        end.decode(peer(1), edge.encode(Open(number.to_bytes(16, "big"), (1, 2))))
    assert len(end._codecs.entry(peer(1))._session_of) == MAX_CHANNELS
    late = edge.encode(Open((0).to_bytes(16, "big"), (1, 2)))
    assert isinstance(end.decode(peer(1), late)[0], Open)


def test_a_channel_that_was_forgotten_is_asked_to_resume():
    end, edge = CloudEnd(ManualClock()), Codec()
    for number in range(MAX_CHANNELS + 1):
        end.decode(peer(1), edge.encode(Open(number.to_bytes(16, "big"), (1, 2))))
    message, answer = end.decode(peer(1), edge.encode(Draft(bytes(16), 1, 1, 2, 0, ())))
    assert message is None
    assert answer is not None
    assert edge.decode(answer) == NeedResume(bytes(16), 1)


def test_what_is_too_long_is_refused_unread_with_its_reason():
    end, edge = CloudEnd(ManualClock()), Codec()
    end.longest_message = 100
    message, answer = end.decode(peer(1), edge.encode(Open(bytes(16), tuple(range(200)))))
    assert message is None
    assert answer is not None
    said = edge.decode(answer)
    assert isinstance(said, Failure)
    assert (said.code, said.retryable) == (PromptTooLong.code, False)
    for _ in range(100):
        end.decode(peer(1), edge.encode(Open(bytes(16), tuple(range(200)))))
    assert end.counters.dropped == 101


def test_a_flood_costs_a_device_its_connection_and_nobody_else() -> None:
    clock = ManualClock()
    end = CloudEnd(clock)
    loud, again, quiet = peer(1, "loud"), peer(2, "loud"), peer(3, "quiet")
    said = [end.floods(loud) for _ in range(int(2 * MESSAGES_PER_SECOND))]
    assert set(said) == {""}
    assert [end.floods(loud), end.floods(loud), end.floods(again)] == ["cut", "drop", "drop"]
    assert end.floods(quiet) == ""
    clock.advance(1.0)
    assert end.floods(again) == ""


def test_who_is_behind_is_stricter() -> None:
    clock = ManualClock()
    end = CloudEnd(clock)
    clock.advance(2 * BEHIND_S)
    said = [end.floods(peer(1, "loud")) for _ in range(int(2 * MESSAGES_PER_SECOND_WHEN_BEHIND) + 2)]
    assert said[-2:] == ["cut", "drop"]
    assert set(said[:-2]) == {""}
    end.kept_up()
    assert end.floods(peer(1, "loud")) == ""
