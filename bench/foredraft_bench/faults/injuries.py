"""The faults themselves: each is a function that does it to a text in the middle, and says when, and when it was over."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from foredraft_edge.link import Link, error_from
from foredraft_shared.errors import LinkLost
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import Close, Failure, Open, Resume, SamplingParams, TokenId, Verdict
from foredraft_shared.transports.link_process import LinkProcess
from foredraft_shared.transports.zmq import ZmqTransport

from .texts import EdgeProcess, Text
from .world import Settings, World

__all__ = ["Fault", "Injury", "Scene", "full_faults", "short_faults"]

_SETTLED_S = 4.0
"""So long after a fault a device has done all it will do until the link is back."""


@dataclass(slots=True)
class Injury:
    """What was done to a text."""

    began: float
    """By ``time.monotonic``."""
    healed: float
    """When nothing stood in the way any more."""
    note: str = ""
    edge_note: str = ""
    """Why nobody should expect the device to go on alone, if so."""
    back_note: str = ""
    """Why there is no healing to measure from, if so."""


@dataclass(slots=True)
class Scene:
    """A text that is being written, and everything that can be broken around it."""

    world: World
    sampling: str
    mode: str
    edge: EdgeProcess
    link: LinkProcess
    text: Text
    stage: threading.Lock
    """Held while anything computes, so that scenes of long outages do not disturb each other."""
    twin: tuple[EdgeProcess, LinkProcess] | None = None
    """Another device, if the fault wants one."""
    crowd: Crowd | None = None
    """Another one that is about to need the whole server."""
    taken_up: Text | None = None
    """The rest of the text, if another process went on with it."""
    others: list[tuple[Text, int]] = field(default_factory=list)
    """Further texts that have to be right, with the number of the prompt of each."""

    def rest(self, seconds: float) -> None:
        """Let time pass; what is left of it after the device has settled, others may use."""
        settled = min(seconds, _SETTLED_S)
        time.sleep(settled)
        if seconds > settled:
            self.stage.release()
            try:
                time.sleep(seconds - settled)
            finally:
                self.stage.acquire()


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault."""

    name: str
    strike: Callable[[Scene], Injury]
    silences: bool = True
    """Whether it is the server's silence that it brings about."""
    long: bool = False
    """Mostly waiting: several of them share the time."""
    twin: bool = False
    """Whether it takes another device."""
    saved: bool = False
    """Whether the text is kept in a file."""
    crowd: bool = False
    """Whether it takes one that needs the whole server."""
    order: dict[str, Any] = field(default_factory=dict)
    """What is different about the text from its beginning."""


# --- the server


def server_killed(scene: Scene) -> Injury:
    """``kill -9`` in the middle of a round, and another process in its place."""
    began = time.monotonic()
    scene.world.server.kill()
    return Injury(began, scene.world.restart_server())


def server_stopped(scene: Scene) -> Injury:
    """Every thread of the server stands still (SIGSTOP), as on a machine that swaps."""
    began = time.monotonic()
    scene.world.signal_server(signal.SIGSTOP)
    scene.rest(scene.world.settings.stuck_s)
    healed = time.monotonic()
    scene.world.signal_server(signal.SIGCONT)
    return Injury(began, healed)


def server_hangs(scene: Scene) -> Injury:
    """The server's Python is stuck; ZeroMQ's threads still answer heartbeats for it."""
    began = time.monotonic()
    scene.world.signal_server(signal.SIGUSR1)
    scene.rest(scene.world.settings.stuck_s)
    return Injury(began, began + scene.world.settings.stuck_s)


def drained(scene: Scene) -> Injury:
    """The server is told to stop in good order (SIGTERM), and another takes its place."""
    began = time.monotonic()
    scene.world.signal_server(signal.SIGTERM)
    ended = scene.world.server.wait(60.0)
    finished = scene.text.ended_at is not None
    healed = scene.world.restart_server()
    if not ended:
        note = "the server did not stop and was killed"
    else:
        note = "the server let the text finish" if finished else "the server went before the text was finished"
    return Injury(began, healed, note)


class Crowd:
    """Another device, with a session that came first and holds most of the cache, and can grow to hold it all.

    Args:
        room: tokens that it leaves to others until then.
    """

    def __init__(self, address: str, room: int) -> None:
        self._link = Link(ZmqTransport(address), where="the server")
        self._session = secrets.token_bytes(16)
        try:
            context = self._link.greet(20.0).context
            self._text = tuple(itertools.islice(itertools.cycle(range(1, 60)), context - 1))
            few = self._text[: max(1, context - room)]
            self._fill(few, Open(self._session, few, SamplingParams(), 1))
        except BaseException:
            self._link.close()
            raise

    def crowd(self) -> None:
        """Take all of the cache: the session was there first, so others have to give way."""
        self._fill(self._text, Resume(self._session, 2, self._text, len(self._text), SamplingParams(), 1))

    def leave(self) -> None:
        """Give it back; may be called twice."""
        self._link.send(Close(self._session, 2))
        self._link.ping(1, 20.0)  # the answer comes behind what was sent before: it has arrived

    def close(self) -> None:
        """Leave, and hang up."""
        with contextlib.suppress(LinkLost):
            self.leave()
        self._link.close()

    def _fill(self, tokens: Sequence[TokenId], message: Open | Resume) -> None:
        self._link.send(message)
        self._link.send(Ledger(self._session, tokens, message.epoch).request(1))
        deadline = time.monotonic() + 30.0
        while not isinstance(answer := self._link.receive(1.0), Verdict):
            if isinstance(answer, Failure):
                raise error_from(answer)
            if time.monotonic() > deadline:
                raise LinkLost(
                    "the server does not read the crowd's text; run the matrix again on a machine less busy."
                )


def out_of_cache(scene: Scene) -> Injury:
    """Another session, which came first, grows until the cache has no room for this one; later it leaves."""
    assert scene.crowd is not None
    began = time.monotonic()
    scene.crowd.crowd()
    scene.rest(scene.world.settings.crowded_s)
    healed = time.monotonic()
    scene.crowd.leave()
    return Injury(began, healed)


# --- the device


def edge_killed(scene: Scene) -> Injury:
    """``kill -9`` of the device's process; another one takes the text up from the file it was kept in."""
    assert scene.twin is not None
    edge, link = scene.twin
    began = time.monotonic()
    scene.edge.kill()
    healed = time.monotonic()
    order = scene.world.order(link.address, scene.sampling, scene.mode, resume=scene.text.order.save)
    scene.taken_up = edge.write(order)
    if not scene.taken_up.wait_end(scene.world.settings.limit_s):
        edge.kill()
    return Injury(began, healed, "healed: another process is told to go on", "there is no device to go on")


def same_routing_id(scene: Scene) -> Injury:
    """Another device with the same ZeroMQ routing id writes another text meanwhile."""
    assert scene.twin is not None
    edge, link = scene.twin
    began = time.monotonic()
    routing_id = scene.text.order.routing_id
    order = scene.world.order(link.address, scene.sampling, scene.mode, prompt=1, routing_id=routing_id)
    twin = edge.write(order)
    scene.others.append((twin, 1))
    limit_s = 2 * scene.world.settings.limit_s
    twin.wait_end(limit_s)
    scene.text.wait_end(max(0.0, began + limit_s - time.monotonic()))
    if twin.ended_at is None:
        edge.kill()
    first = min(text.ended_at or time.monotonic() for text in (twin, scene.text))
    return Injury(began, first, "healed: one of the two had finished", "both links are up")


# --- the link


def black_hole(seconds: float) -> Callable[[Scene], Injury]:
    """Nothing passes and nobody is told; what was connected stays dead, as behind a router that forgot it."""

    def strike(scene: Scene) -> Injury:
        began = time.monotonic()
        scene.link.black_hole()
        scene.rest(seconds)
        healed = time.monotonic()
        scene.link.heal()
        return Injury(began, healed)

    return strike


def held(seconds: float) -> Callable[[Scene], Injury]:
    """Nothing passes for a while, and then everything does, late."""

    def strike(scene: Scene) -> Injury:
        began = time.monotonic()
        scene.link.black_hole(hold=True)
        scene.rest(seconds)
        healed = time.monotonic()
        scene.link.heal()
        return Injury(began, healed)

    return strike


def reset(scene: Scene) -> Injury:
    """RST to both sides."""
    began = time.monotonic()
    scene.link.reset()
    return Injury(began, began, edge_note="the link was whole again at once")


def half_open(scene: Scene) -> Injury:
    """The server has closed the connection, the device believes in it; a new one would work."""
    began = time.monotonic()
    scene.link.half_open()
    return Injury(began, began)


def nothing_more(scene: Scene) -> Injury:
    """For faults of messages, which happen from the beginning of a text to its end."""
    began = scene.text.events[0].at if scene.text.events else time.monotonic()
    return Injury(began, began, "", "single messages suffer, the link was never down", "nothing heals")


def _messages(name: str, **faults: float) -> Fault:
    return Fault(name, nothing_more, order={"faults": faults, "faults_seed": 7})


def _faults(settings: Settings, holes_s: tuple[float, ...], held_s: float) -> list[Fault]:
    share, stuck = settings.message_share, settings.stuck_s
    twin = secrets.token_bytes(15).hex()
    return [
        Fault("server killed and restarted", server_killed),
        *(Fault(f"black hole {seconds:g} s", black_hole(seconds), long=seconds > 5.0) for seconds in holes_s),
        Fault("TCP reset", reset),
        Fault("half-open connection", half_open),
        Fault(f"bytes held {held_s:g} s, then delivered", held(held_s)),
        _messages(f"{share:.0%} of messages dropped", drop=share),
        _messages(f"{share:.0%} of messages doubled", duplicate=share),
        _messages(f"{share:.0%} of messages reordered", reorder=share, reorder_s=0.05),
        Fault(f"server stopped {stuck:g} s", server_stopped),
        Fault(f"server's Python stuck {stuck:g} s", server_hangs),
        Fault(f"server out of cache {settings.crowded_s:g} s", out_of_cache, crowd=True),
        Fault("same routing id twice", same_routing_id, silences=False, twin=True, order={"routing_id": f"01{twin}"}),
        Fault("drained while writing", drained),
        Fault("edge killed and resumed", edge_killed, silences=False, twin=True, saved=True),
    ]


def full_faults(settings: Settings) -> list[Fault]:
    """All of them, as long as they have to be."""
    return _faults(settings, (1.5, 10.0, 60.0), 3.0)


def short_faults(settings: Settings) -> list[Fault]:
    """All kinds, but short ones."""
    return _faults(settings, (1.5,), 1.0)
