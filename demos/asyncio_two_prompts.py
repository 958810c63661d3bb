"""Two questions at once, from one asyncio program: the server verifies both in the same passes.

::

    foredraft serve smollm2-135m               # in one terminal
    python demos/asyncio_two_prompts.py        # in another

Each client has a thread and a draft model of its own, so the event loop stays free for whatever else your program does.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from foredraft_edge import AsyncClient
from foredraft_shared.errors import ForedraftError


async def ask(name: str, question: str, asked: argparse.Namespace) -> None:
    """Print the answer sentence by sentence, as it becomes final."""
    async with AsyncClient(asked.server, asked.draft) as client:
        began = time.perf_counter()
        line, count = "", 0
        async for event in client.stream(question, max_tokens=asked.max_tokens):
            line += event.text
            count += 1
            if line.rstrip().endswith((".", "!", "?", ":")) or event.finish:
                print(f"[{name}] {' '.join(line.split())}", flush=True)
                line = ""
        seconds = time.perf_counter() - began
        print(f"[{name}] ({count} tokens in {seconds:.1f} s)", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Answer two questions at once.")
    parser.add_argument("--server", default="tcp://127.0.0.1:5555")
    parser.add_argument("--draft", default="smollm2-135m")
    parser.add_argument("--max-tokens", type=int, default=48)
    asked = parser.parse_args()
    await asyncio.gather(
        ask("sky", "Why is the sky blue?", asked),
        ask("sea", "Why is the sea salty?", asked),
    )


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except ForedraftError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
