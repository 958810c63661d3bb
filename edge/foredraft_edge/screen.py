"""A text as it grows, on a terminal: what is final stays, what is only expected is shown dim and taken back.

Final text is printed once and never touched again, so that it can be scrolled, copied and piped. The expected
continuation stands behind it as far as the line reaches; the cursor is kept where the final text ends.

While the server is gone, what the edge writes alone is printed as it comes, on a terminal, and stays there too. When the
server is back, a line says what has been confirmed; what has not is printed anew, as it should have been.
"""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from foredraft_shared.messages import Position

from .stream import TokenEvent, TokenStream, standing

__all__ = ["STYLES", "Screen", "statistics_lines"]

STYLES = {"drafted": "green", "target": "bold", "edge": "yellow", "exit": "magenta", "provisional": "dim italic"}
"""How a token's origin looks: drafted here and confirmed, the target's own, never verified, taken from an exit."""


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
        self._alone: set[Position] = set()
        """Where provisional tokens stand that nobody has verified yet."""
        self._confirmed = 0

    def show(self, stream: TokenStream) -> list[TokenEvent]:
        """Print the answer as it is written; returns its events, those that stand at the end."""
        events = []
        try:
            for event in stream:
                events.append(event)
                if event.provisional:
                    self._provisional(event)
                    continue
                if self._alone:
                    self._verified(event)
                else:
                    self._print(event)
                if self._console.is_terminal and not self._alone:
                    self._expected(stream.provisional)
        finally:
            self._clear()
            if self._column:
                self._console.print()
        events = standing(events)
        if self._alone:
            if not self._console.is_terminal:
                self._console.print("".join(event.text for event in events if event.provisional), soft_wrap=True)
            self._notices.print("— the server did not come back: the end of this was never verified —", style="yellow")
        return events

    def _provisional(self, event: TokenEvent) -> None:
        if not self._alone:
            self._notice("the server does not answer; going on alone")
            self._confirmed = 0
        self._alone.add(event.position)
        if self._console.is_terminal:  # what cannot be taken back is not piped
            self._print(event)

    def _verified(self, event: TokenEvent) -> None:
        """A final token where a provisional one stood, or behind such."""
        if event.position in self._alone and not event.revised:
            self._alone.discard(event.position)
            self._confirmed += 1
            if not self._console.is_terminal:
                self._print(event)
            if not self._alone:
                self._notice(f"the server is back; {self._confirmed} tokens confirmed")
            return
        self._alone.clear()
        self._notice(f"the server is back; {self._confirmed} tokens confirmed, the rest was otherwise")
        self._print(event)

    def _notice(self, text: str) -> None:
        self._clear()
        if self._column and self._console.is_terminal:
            self._console.print()
            self._column = 0
        self._notices.print(f"— {text} —", style="yellow", highlight=False)

    def _print(self, event: TokenEvent) -> None:
        self._clear()
        if not event.text:
            return
        style = STYLES["drafted"] if event.drafted and event.origin == "target" else STYLES[event.origin]
        self._console.print(Text(event.text, style if self._colour else ""), end="", soft_wrap=True)
        if not self._console.is_terminal:
            self._console.file.flush()
        last_line = event.text.rpartition("\n")
        self._column = cell_len(last_line[2]) + (0 if last_line[1] else self._column)
        self._column %= max(1, self._console.width)

    def _expected(self, text: str) -> None:
        room = self._console.width - self._column - 1
        line = text.partition("\n")[0]
        if room > 0 and line:
            shown = line if cell_len(line) <= room else set_cell_size(line, room)
            self._console.file.write("\x1b7")  # remember where the final text ends
            self._console.print(Text(shown, STYLES["provisional"]), end="", soft_wrap=True)
            self._console.file.write("\x1b8")
            self._console.file.flush()

    def _clear(self) -> None:
        if self._console.is_terminal:
            self._console.file.write("\x1b[K")
            self._console.file.flush()


def statistics_lines(stream: TokenStream, seconds: float) -> list[str]:
    """What a text took, in words: one line a topic."""
    counts, measured = stream.statistics, stream.measured
    tokens = max(1, counts.committed)
    lines = [
        f"{counts.committed} tokens in {seconds:.2f} s, {seconds * 1000 / tokens:.1f} ms a token; "
        f"{counts.rounds} cloud passes, {(counts.bytes_up + counts.bytes_down) / tokens:.1f} bytes a token",
        f"drafted {counts.drafted}, accepted {counts.accepted}"
        + (f" ({counts.accepted / counts.drafted:.0%})" if counts.drafted else "")
        + f"; guesses held {counts.guess_hits} of {counts.guesses}; chained rounds {counts.chained_hits} of "
        f"{counts.chained} in time; hints right {counts.hints_right} of {counts.hints}",
        f"drafting {measured.draft_ms.value:.1f} ms a token, round trip {measured.rtt_ms.value:.1f} ms, verification "
        f"{measured.verify_ms.value:.1f} ms, cloud alone {measured.decode_ms.value:.1f} ms a token",
        f"planner: {stream.decision}",
    ]
    if counts.repeats or counts.resumes:
        lines.append(f"the link lost something: {counts.repeats} messages repeated, {counts.resumes} resumes")
    if counts.outages or counts.provisional:
        lines.append(
            f"the server was gone {counts.outages} times; {counts.provisional} tokens written alone, {counts.revised} of "
            "them otherwise than the target's"
        )
    return lines
