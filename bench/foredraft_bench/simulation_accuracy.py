"""How far the simulator is off: the same cases simulated and run for real.

For real: a server with its threads, ZeroMQ over TCP, the link emulator in its own process and the round loop, in real time.
Only target and drafter are the simulator's, which here sleep for as long as they take. So what is compared is everything
but the models: queues, sockets, threads, the loop's own time. ::

    python -m foredraft_bench.simulation_accuracy --tokens 200
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections.abc import Iterator

from foredraft_cloud.server import Server
from foredraft_edge.link import Link
from foredraft_edge.loop import RoundLoop
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import SamplingParams
from foredraft_shared.transports.link_process import LinkProcess
from foredraft_shared.transports.relay import LinkSettings
from foredraft_shared.transports.zmq import ZmqListener, ZmqTransport

from .simulate import MODES, planner_for, simulate
from .virtual_models import RIGHT, Skill, Times, VirtualDrafter, VirtualTarget

CASES: list[tuple[float, Times, float, str]] = [
    (rtt_ms, Times(draft_ms, 40.0, 0.5), acceptance, mode)
    for rtt_ms, draft_ms, acceptance in ((5.0, 4.0, 0.8), (60.0, 10.0, 0.8), (150.0, 4.0, 0.9))
    for mode in MODES
]


class _RealTime:
    """A world whose clocks go by themselves: to set one is to sleep until then."""

    def __init__(self, times: Times) -> None:
        self.times = times
        self.seed = 0
        self.dice = random.Random(0)
        self.drafted_ns = 0

    @property
    def device_ns(self) -> int:
        return time.perf_counter_ns()

    @device_ns.setter
    def device_ns(self, until_ns: int) -> None:
        time.sleep(max(0.0, (until_ns - time.perf_counter_ns()) / 1e9))

    @property
    def cloud_ns(self) -> int:
        return time.perf_counter_ns()

    @cloud_ns.setter
    def cloud_ns(self, until_ns: int) -> None:
        self.device_ns = until_ns


def measure(rtt_ms: float, times: Times, acceptance: float, mode: str, tokens: int, seed: int) -> float:
    """Milliseconds a token, in real time."""
    world = _RealTime(times)
    listener = ZmqListener()
    server = Server(VirtualTarget(world), listener, model="sleeps", fingerprint="")
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        with LinkProcess(listener.address, rtt_ms=rtt_ms) as relay:
            transport = ZmqTransport(relay.address)
            link = Link(transport, where="the sleeping cloud")
            link.greet()
            planner = planner_for(mode)
            planner.measured.rtt_ms.add(link.rtt_ms)
            loop = RoundLoop(
                link,
                Ledger(bytes(16), [RIGHT]),
                None if mode == "cloud" else VirtualDrafter(world, Skill(acceptance, seed=seed)),
                planner,
                SamplingParams(),
                max_tokens=tokens,
                options=MODES[mode],
            )
            arrived = list(_arrivals(loop))
            transport.close()
    finally:
        server.stop()
        thread.join()
    return (arrived[-1] - arrived[0]) / (len(arrived) - 1)


def _arrivals(loop: RoundLoop) -> Iterator[float]:
    for commit in loop.run():
        now_ms = time.perf_counter() * 1e3
        yield from [now_ms] * len(commit.tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description="How far the simulator is off.")
    parser.add_argument("--tokens", type=int, default=200)
    asked = parser.parse_args()
    print("| round trip | draft | acceptance | mode | real | simulated | error |\n|---|---|---|---|---|---|---|")
    errors = []
    for rtt_ms, times, acceptance, mode in CASES:
        simulated = simulate(
            link=LinkSettings(rtt_ms=rtt_ms), times=times, acceptance=acceptance, mode=mode, tokens=asked.tokens
        ).ms_per_token
        real = measure(rtt_ms, times, acceptance, mode, asked.tokens, seed=0)
        errors.append(simulated / real - 1.0)
        print(
            f"| {rtt_ms:g} | {times.draft_ms:g} | {acceptance:g} | {mode} | {real:.1f} | {simulated:.1f} "
            f"| {errors[-1]:+.1%} |",
            flush=True,
        )
    print(f"\nmean {statistics.mean(errors):+.1%}, largest {max(errors, key=abs):+.1%}")


if __name__ == "__main__":
    main()
