"""What a demonstration shows while it runs: each answer as it grows, with its pace beside it.

On a terminal the answer is redrawn in place a few times a second; what has been final stays in the scroll-back. Anywhere
else the text is printed as it comes, without colours or control characters.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from foredraft_edge.screen import STYLES
from foredraft_edge.stream import TokenEvent, TokenStream

from .metrics import Answer
from .modes import Mode

__all__ = ["PlainScreen", "Screen", "TerminalScreen", "screen_for", "telling"]

_REDRAW_S = 0.1
"""Between two drawings: a drawing takes about two milliseconds, in which the device does not draft."""
_SIDE = 11
"""Columns beside the text."""


class PlainScreen:
    """Text as it comes; also what all screens can do. Between :meth:`begin` and :meth:`end` it watches one answer."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def legend(self) -> None:
        """Explain the colours, where there are any."""

    def prompt(self, index: int, count: int, prompt: str) -> None:
        """A new prompt: what follows answers it."""
        self._console.print()
        line = " ".join(prompt.split())
        self._console.print(Text.assemble((f"{index + 1}/{count}  ", "dim"), (line, "bold cyan")), soft_wrap=True)

    def begin(self, mode: Mode) -> None:
        """An answer begins."""
        self._console.print(f"\n[{mode.title}]", markup=False, highlight=False)

    def token(self, event: TokenEvent, stream: TokenStream) -> None:
        """See :class:`~foredraft_bench.modes.Watcher`."""
        self._console.file.write(event.text)
        self._console.file.flush()

    def end(self, answer: Answer | None) -> None:
        """The answer is complete; ``None`` if it never will be."""
        self._console.file.write("\n")
        if answer is not None and answer.ms_per_token is not None:
            self._console.print(
                f"({len(answer.tokens)} tokens, {answer.ms_per_token:.1f} ms per token)",
                highlight=False,
                soft_wrap=True,
            )


Screen = PlainScreen


class TerminalScreen(PlainScreen):
    """The answer redrawn in place: final tokens by origin, what is only expected dim behind them."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live: Live | None = None
        self._mode: Mode | None = None
        self._text = Text()
        self._tokens = 0
        self._first = self._last = self._drawn = 0.0

    def legend(self) -> None:
        line = Text("  ").join(
            (
                Text("drafted here, confirmed", STYLES["drafted"]),
                Text("the cloud's own", STYLES["target"]),
                Text("expected, unconfirmed", STYLES["provisional"]),
            )
        )
        self._console.print(Text("colours: ", "dim") + line, soft_wrap=True)

    def begin(self, mode: Mode) -> None:
        self._mode = mode
        self._text = Text()
        self._tokens = 0
        self._console.print()
        self._live = Live(self._drawing(""), console=self._console, auto_refresh=False, vertical_overflow="crop")
        self._live.start()

    def token(self, event: TokenEvent, stream: TokenStream) -> None:
        self._text.append(event.text, STYLES["drafted" if event.drafted else "target"])
        self._last = time.perf_counter()
        if self._tokens == 0:
            self._first = self._last
        self._tokens += 1
        if self._live is not None and self._last - self._drawn >= _REDRAW_S:
            self._drawn = self._last
            self._live.update(self._drawing(stream.provisional), refresh=True)

    def end(self, answer: Answer | None) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.update(self._drawing("", whole=True))
            live.vertical_overflow = "visible"
            live.stop()

    def _drawing(self, expected: str, *, whole: bool = False) -> RenderableType:
        """The pace beside the text; of a text higher than the terminal only the end, until it is ``whole``."""
        assert self._mode is not None
        # Not quite to the edge: there the terminal's own echo of Ctrl-C would begin a line that we do not know of.
        width = max(20, self._console.width - _SIDE - 4)
        text = Text.assemble(self._text, (expected, STYLES["provisional"]))
        lines = text.wrap(self._console, width)
        room = max(3, self._console.height - 3)
        shown = Text("\n").join(lines if whole else lines[-room:])
        elapsed_ms = (self._last - self._first) * 1000.0
        pace = f"{elapsed_ms / (self._tokens - 1):.1f} ms" if self._tokens > 1 else ""
        side = Group(Text(self._mode.name, "bold"), Text(pace, "cyan"), Text("a token" if pace else "", "dim"))
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=_SIDE)
        grid.add_column(width=width)
        grid.add_row(side, shown)
        return grid


def screen_for(console: Console) -> PlainScreen:
    """What suits the console."""
    return TerminalScreen(console) if console.is_terminal and not console.is_dumb_terminal else PlainScreen(console)


@contextlib.contextmanager
def telling(what: str) -> Iterator[None]:
    """Tell on standard error what takes so long."""
    notes = Console(stderr=True)
    if notes.is_terminal and not notes.is_dumb_terminal:
        with notes.status(f"{what} …"):
            yield
    else:
        notes.print(f"{what} …", highlight=False, soft_wrap=True)
        yield
