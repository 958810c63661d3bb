"""A text as it grows, on a terminal: what is final stays, what is only expected is shown dim and taken back.

Final text is printed once and never touched again, so that it can be scrolled, copied and piped. The expected
continuation stands behind it as far as the line reaches; the cursor is kept where the final text ends.

While the server is gone, what the edge writes alone is printed as it comes, on a terminal, and stays there too. When the
server is back, a line says whether it holds; if it does not, all of it is printed anew, as it should have been, so that
nobody has to look for the token where it went wrong.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from foredraft_shared.messages import Position

from .stream import TokenEvent, TokenStream, standing
from .watch import SessionState

__all__ = ["STYLES", "Screen", "harmless", "statistics_lines"]

STYLES = {"drafted": "green", "target": "bold", "edge": "yellow", "exit": "magenta", "provisional": "dim italic"}
"""How a token's origin looks: drafted here and confirmed, the target's own, never verified, taken from an exit."""


_LOOK_S = 0.25
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Screen:
    """Prints one answer.

    Args:
        console: on standard output; when that is no terminal, plain text is printed and nothing else.
        colour: tell the origins of tokens apart.
    """

    def __init__(self, console: Console, *, colour: bool = True) -> None:
        self._console = console
        self._colour = colour
        self._notices = console if console.is_terminal else Console(stderr=True)
        self._column = 0
        self._expecting = False
        """Whether there is something behind the cursor."""
        self._alone: set[Position] = set()
        """Where provisional tokens stand that nobody has verified yet."""
        self._confirmed: list[TokenEvent] = []
        self._waiting = False
        """Whether the user was told that nothing comes."""
        self._lock = threading.Lock()

    def restored(self, text: str) -> None:
        """Print the beginning of the answer, which was written before; :meth:`show` goes on behind it."""
        self._put(text, "")

    def show(self, stream: TokenStream) -> list[TokenEvent]:
        """Print the answer as it is written; returns its events, those that stand at the end."""
        events = []
        try:
            with self._looking_out(stream):
                for event in stream:
                    events.append(event)
                    with self._lock:
                        self._take(event, stream)
        finally:
            self._clear()
            if self._column:
                self._console.print()
                self._column = 0
        events = standing(events)
        if self._alone:
            if not self._console.is_terminal:
                self._console.file.write("".join(event.text for event in events if event.provisional) + "\n")
            self._notice("the server did not come back: the end of this was never verified")
        return events

    def _take(self, event: TokenEvent, stream: TokenStream) -> None:
        if event.provisional:
            self._provisional(event)
            return
        if self._alone:
            self._verified(event)
        else:
            if self._waiting:
                self._notice("the server is back")
            self._print(event)
        self._waiting = False
        if self._console.is_terminal and not self._alone:
            self._expected(stream.provisional)

    def _provisional(self, event: TokenEvent) -> None:
        if not self._alone:
            self._notice("the server does not answer; going on alone, unverified")
            self._confirmed = []
        self._waiting = False
        self._alone.add(event.position)
        if self._console.is_terminal:  # what cannot be taken back is not piped
            self._print(event)

    def _verified(self, event: TokenEvent) -> None:
        """A final token where a provisional one stood, or behind such."""
        holds = event.position in self._alone and not event.revised
        if holds:
            self._alone.discard(event.position)
            self._confirmed.append(event)
        if not self._console.is_terminal:
            self._print(event)
        if holds and self._alone and not event.finish:
            return
        held, of = len(self._confirmed), len(self._confirmed) + len(self._alone)
        self._alone.clear()
        if held == of and holds:
            self._notice(f"the server is back; all {of} tokens confirmed")
        elif self._console.is_terminal:
            self._notice(f"the server is back; {held} of {of} tokens held. Verified, it reads:")
            for each in self._confirmed if holds else (*self._confirmed, event):
                self._print(each)
        else:
            self._notice(f"the server is back; {held} of {of} tokens held")

    @contextmanager
    def _looking_out(self, stream: TokenStream) -> Iterator[None]:
        """Say so when the server is gone and nothing can be written meanwhile: that is no event of the text."""
        over = threading.Event()

        def look() -> None:
            gone = False
            while not over.wait(_LOOK_S):
                was_gone, gone = gone, stream.has_server and stream.state is SessionState.EDGE_ONLY
                with self._lock:
                    if gone and was_gone and not self._alone and not self._waiting:
                        self._waiting = True
                        self._notice("the server does not answer; waiting for it")

        thread = threading.Thread(target=look, name="foredraft-screen", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _notice(self, text: str) -> None:
        self._clear()
        if self._column and self._console.is_terminal:
            self._console.print()
            self._column = 0
        elif self._column:
            self._notices.print()  # what is piped goes on in its line, and may end on the same screen
        self._notices.print(f"— {text} —", style="yellow", highlight=False, soft_wrap=True)

    def _print(self, event: TokenEvent) -> None:
        style = STYLES["drafted"] if event.drafted and event.origin == "target" else STYLES[event.origin]
        self._put(event.text, style if self._colour else "")

    def _put(self, text: str, style: str) -> None:
        self._clear()
        if not text:
            return
        if not self._console.is_terminal:
            self._console.file.write(text)
            self._console.file.flush()
            self._column = len(text.rpartition("\n")[2])
            return
        shown = harmless(text)
        self._console.print(Text(shown, style), end="", soft_wrap=True)
        self._column = _column_after(self._column, shown, self._console.width)

    def _expected(self, text: str) -> None:
        room = self._console.width - self._column - 1
        line = harmless(text).partition("\n")[0]
        if room > 0 and line:
            shown = line if cell_len(line) <= room else set_cell_size(line, room)
            self._console.file.write("\x1b7")  # remember where the final text ends
            self._console.print(Text(shown, STYLES["provisional"]), end="", soft_wrap=True)
            self._console.file.write("\x1b8")
            self._console.file.flush()
            self._expecting = True

    def _clear(self) -> None:
        # Never without need: behind a full line it would take that line's last character away.
        if self._expecting:
            self._expecting = False
            self._console.file.write("\x1b[K")
            self._console.file.flush()


def harmless(text: str) -> str:
    """The text without what would command the terminal rather than be read: a model may write anything."""
    return _CONTROLS.sub("\ufffd", text.replace("\t", "    "))


def _column_after(column: int, text: str, width: int) -> int:
    """Where the cursor stands: 1 to ``width`` behind a character, 0 on a new line."""
    for character in text:
        if character == "\n":
            column = 0
        else:
            size = cell_len(character)
            column = column + size if column + size <= width else size
    return column


def statistics_lines(stream: TokenStream, written: int, seconds: float) -> list[str]:
    """What ``written`` tokens took, in words: one line a topic. What nobody has measured is not told."""
    counts, measured = stream.statistics, stream.measured
    tokens = max(1, written)
    lines = [f"{written} tokens in {seconds:.2f} s, {seconds * 1000 / tokens:.1f} ms a token"]
    if counts.rounds:
        lines[0] += (
            f"; {counts.rounds} cloud passes, {(counts.bytes_up + counts.bytes_down) / tokens:.1f} bytes a token"
        )
        lines.append(
            f"drafted {counts.drafted}, accepted {counts.accepted}"
            + (f" ({counts.accepted / counts.drafted:.0%})" if counts.drafted else "")
            + f"; guesses held {counts.guess_hits} of {counts.guesses}; chained rounds {counts.chained_hits} of "
            f"{counts.chained} in time; hints right {counts.hints_right} of {counts.hints}"
        )
    known = [
        f"{name} {estimate.value:.1f} ms{each}"
        for name, estimate, each in (
            ("drafting", measured.draft_ms, " a token"),
            ("round trip", measured.rtt_ms, ""),
            ("verification", measured.verify_ms, ""),
            ("cloud alone", measured.decode_ms, " a token"),
        )
        if estimate.samples
    ]
    if known:
        lines.append(", ".join(known))
    lines.append(f"planner: {stream.decision}")
    if counts.repeats or counts.resumes:
        lines.append(f"the link lost something: {counts.repeats} messages repeated, {counts.resumes} resumes")
    if counts.outages or counts.provisional:
        lines.append(
            f"the server was gone {counts.outages} times; {counts.provisional} tokens written alone, {counts.revised} of "
            "them otherwise than the target's"
        )
    return lines
