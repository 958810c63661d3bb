"""What the planner decides, and why, while the network gets worse under it.

::

    foredraft serve smollm2-135m             # in one terminal
    python demos/watch_the_planner.py        # in another

Between the device and the server stands an emulated link. The first text is written over a good one (5 ms round trip), the
second over a bad one (``--bad-rtt-ms``): there, waiting for verdicts may cost more than drafting saves, and the planner
should let the cloud write alone, trying again now and then. The text is the same either way.
"""

from __future__ import annotations

import argparse
import sys
import time

from foredraft_edge import Client
from foredraft_shared.errors import ForedraftError
from foredraft_shared.transports.link_process import LinkProcess


def write(client: Client, question: str, max_tokens: int) -> str:
    """Write an answer in mode ``auto``, telling each new decision."""
    began = time.perf_counter()
    stream = client.stream(question, max_tokens=max_tokens, mode="auto")
    text, decision = "", ""
    for index, event in enumerate(stream):
        text += event.text
        if stream.decision.partition(":")[0] != decision.partition(":")[0]:
            decision = stream.decision
            print(f"  token {index:3}  {decision}")
    seconds = time.perf_counter() - began
    measured = stream.measured
    told = {
        f"round trip {measured.rtt_ms.value:.1f} ms": measured.rtt_ms,
        f"verification {measured.verify_ms.value:.1f} ms": measured.verify_ms,
        f"drafting {measured.draft_ms.value:.1f} ms a token": measured.draft_ms,
        f"{measured.acceptance.value:.0%} confirmed": measured.acceptance,
    }
    known = ", ".join(words for words, estimate in told.items() if estimate.samples)  # the others are guesses
    print(f"  {seconds * 1000 / stream.statistics.committed:.1f} ms a token in all; measured: {known or 'nothing yet'}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description="Watch the planner over a good and a bad network.")
    parser.add_argument("question", nargs="?", default="Explain in a few sentences why the sky is blue.")
    parser.add_argument("--server", default="tcp://127.0.0.1:5555")
    parser.add_argument("--draft", default="smollm2-135m")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--bad-rtt-ms", type=float, default=250.0)
    asked = parser.parse_args()

    with LinkProcess(asked.server, rtt_ms=5.0) as link, Client(link.address, asked.draft) as client:
        print("a good network: 5 ms round trip")
        first = write(client, asked.question, asked.max_tokens)
        link.change(rtt_ms=asked.bad_rtt_ms)
        print(f"a bad network: {asked.bad_rtt_ms:g} ms round trip")
        second = write(client, asked.question, asked.max_tokens)
    print("the same text both times:" if first == second else "the texts differ, which is a bug; please report it:")
    print(first)


if __name__ == "__main__":
    try:
        main()
    except ForedraftError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
