"""A robot's control loop plans with the large model, loses the network for a while, and goes on step by step.

::

    foredraft serve smollm2-135m          # in one terminal
    python demos/control_loop.py          # in another

Every ``--period-ms`` the loop takes the tokens that are there, and goes on with what it has. Between the device and the
server stands an emulated network, which breaks for ``--break-s`` in the middle. Meanwhile the draft model writes on alone;
what it wrote is verified, and put right where it was wrong, when the server is back. The plan that stands at the end is
the one that the large model alone would have made.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time

from foredraft_edge import Client, TokenEvent, standing
from foredraft_shared.errors import DeadlineMissed, ForedraftError
from foredraft_shared.transports.link_process import LinkProcess


def main() -> None:
    parser = argparse.ArgumentParser(description="Plan in a control loop over a network that breaks.")
    parser.add_argument("task", nargs="?", default="Write the steps to tidy a kitchen table, one on each line.")
    parser.add_argument("--server", default="tcp://127.0.0.1:5555")
    parser.add_argument("--draft", default="smollm2-135m")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--period-ms", type=float, default=150.0)
    parser.add_argument("--break-at-s", type=float, default=1.5)
    parser.add_argument("--break-s", type=float, default=1.5)
    asked = parser.parse_args()
    mended_at_s = asked.break_at_s + asked.break_s

    events: list[TokenEvent] = []
    late_ms = 0.0
    with LinkProcess(asked.server, rtt_ms=20.0) as link, Client(link.address, asked.draft) as client:
        undisturbed = client.generate(asked.task, max_tokens=asked.max_tokens).tokens
        stream = client.stream(asked.task, max_tokens=asked.max_tokens, on_disconnect="edge")
        began = time.perf_counter()
        healthy, step = True, 0
        while not stream.finish:
            step += 1
            elapsed = time.perf_counter() - began
            if healthy and asked.break_at_s <= elapsed < mended_at_s:
                link.black_hole()
                healthy = False
            elif not healthy and elapsed >= mended_at_s:
                link.heal()
                healthy = True
            due = time.perf_counter() + asked.period_ms / 1000
            taken: list[TokenEvent] = []
            with contextlib.suppress(DeadlineMissed):  # nothing yet: go on with the plan as it is
                taken = stream.take(8, deadline_ms=asked.period_ms)
            late_ms = max(late_ms, (time.perf_counter() - due) * 1000)
            events += taken
            final = sum(not event.provisional for event in taken)
            revised = sum(event.revised for event in taken)
            print(
                f"step {step:3}  network {'up  ' if healthy else 'down'}  {stream.state!s:10}  {final} verified, "
                f"{len(taken) - final} provisional" + (f", {revised} put right" if revised else ""),
                flush=True,
            )
            time.sleep(max(0.0, due - time.perf_counter()))  # here the robot would act
    plan = standing(events)
    print("\n" + "".join(event.text for event in plan))
    print(
        f"\n{step} steps of {asked.period_ms:g} ms; the latest was over {max(0.0, late_ms):.1f} ms after its deadline."
    )
    same = tuple(event.token for event in plan) == undisturbed
    print("the plan is the undisturbed one." if same else "the plan differs, which is a bug; please report it.")


if __name__ == "__main__":
    try:
        main()
    except ForedraftError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
