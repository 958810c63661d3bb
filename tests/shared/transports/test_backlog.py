"""A server that cannot read as fast as others send keeps a bound on what waits, and is there afterwards."""

from __future__ import annotations

import pytest
from own_process import run_script

from foredraft_shared.clock import ManualClock
from foredraft_shared.transports.backlog import MAX_BACKLOG_BYTES, Backlog, resident_bytes

MIB = 2**20


def read(backlog: Backlog, clock: ManualClock, count: int) -> bool:
    """Read so many messages in half a second, without coming to an end."""
    found = False
    for _ in range(count):
        clock.advance(0.5 / count)
        found = found or backlog.too_large()
    return found


def test_what_grows_while_much_is_read_is_the_backlog() -> None:
    clock, resident = ManualClock(), [3000 * MIB]
    backlog = Backlog(clock, lambda: resident[0])
    assert not read(backlog, clock, 100)
    resident[0] += MAX_BACKLOG_BYTES + MIB
    assert read(backlog, clock, 100)
    assert not backlog.freed()
    resident[0] = 3001 * MIB
    assert backlog.freed()
    assert not read(backlog, clock, 100)


def test_what_grows_while_all_is_read_is_something_else() -> None:
    clock, resident = ManualClock(), [100 * MIB]
    backlog = Backlog(clock, lambda: resident[0])
    for _ in range(20):
        resident[0] += 2 * MAX_BACKLOG_BYTES
        assert not read(backlog, clock, 10)  # a few messages that came meanwhile
        backlog.kept_up()


FLOODED = """
import zmq
from foredraft_shared.clock import ManualClock
from foredraft_shared.messages import Ping
from foredraft_shared.transports import backlog
from foredraft_shared.transports.zmq import ZmqListener, ZmqTransport

limit = backlog.MAX_BACKLOG_BYTES = 8 * 2**20
clock, looks = ManualClock(), []
listener = ZmqListener()
listener._backlog = backlog.Backlog(clock, lambda: looks.append(backlog.resident_bytes()) or looks[-1])
device = ZmqTransport(listener.address)
assert device.ready(5.0)
context = zmq.Context()
dealer = context.socket(zmq.DEALER)
dealer.linger = 0
dealer.connect(listener.address)

def floods(peer):
    '''For each message that is read three more come, whatever machine this is.'''
    clock.advance(0.001)
    for _ in range(3 if listener.restarts < 2 else 0):
        dealer.send(bytes(1000))
    listener._socket.poll(10_000 if listener.restarts < 2 else 0)
    return "drop"

kept, listener._end.floods = listener._end.floods, floods
before = backlog.resident_bytes()
while listener.restarts < 2:
    dealer.send(bytes(1000))
    listener.receive(1.0)
listener._end.floods = kept
dealer.close()
context.term()
heard = None
for nonce in range(100):
    if device.ready(0.1):
        device.send(Ping(nonce))
    heard = listener.receive(0.1)
    if heard is not None and heard[1] == Ping(nonce):
        break
device.close()
listener.close()
print(max(looks) - before < 3 * limit, heard is not None)
"""


@pytest.mark.skipif(not resident_bytes(), reason="this system does not tell what a process takes")
def test_a_starved_server_does_not_grow_without_end() -> None:
    done = run_script(FLOODED)
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr
    assert "more comes than is read" in done.stderr
