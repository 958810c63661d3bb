"""One question, answered by edge and cloud together.

::

    foredraft serve smollm2-135m        # in one terminal
    python demos/one_prompt.py          # in another

What the device drafted and the cloud confirmed is printed in green; the rest is the cloud's own.
"""

from __future__ import annotations

import argparse
import sys

from foredraft_edge import Client
from foredraft_shared.errors import ForedraftError

GREEN, PLAIN = ("\033[32m", "\033[0m") if sys.stdout.isatty() else ("", "")


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer one question.")
    parser.add_argument("question", nargs="?", default="Why is the sky blue?")
    parser.add_argument("--server", default="tcp://127.0.0.1:5555")
    parser.add_argument("--draft", default="smollm2-135m")
    parser.add_argument("--max-tokens", type=int, default=64)
    asked = parser.parse_args()

    with Client(asked.server, asked.draft) as client:
        stream = client.stream(asked.question, max_tokens=asked.max_tokens)
        for event in stream:
            print(f"{GREEN}{event.text}{PLAIN}" if event.drafted else event.text, end="", flush=True)
        counts = stream.statistics
        print(f"\n\n{counts.committed} tokens in {counts.rounds} passes of the cloud", end="")
        print(f"; {counts.accepted} of {counts.drafted} drafted tokens were confirmed.")


if __name__ == "__main__":
    try:
        main()
    except ForedraftError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
