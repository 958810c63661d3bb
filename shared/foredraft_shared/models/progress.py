"""Telling a person how far a download is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress

__all__ = ["Progress", "bar", "silent"]


class Progress(Protocol):
    """Called as work goes on, from the thread that does it."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """``stage`` is a few words for a person; ``done`` and ``total`` count bytes, ``total`` 0 where unknown."""


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@contextmanager
def bar() -> Iterator[Progress]:
    """A bar per stage on standard error; it appears with the first call, so that nothing shows if nothing is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    display = RichProgress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    tasks: dict[str, int] = {}

    def show(stage: str, done: int, total: int) -> None:
        if not tasks:
            display.start()
        if stage not in tasks:
            tasks[stage] = display.add_task(stage, total=total or None)
        display.update(tasks[stage], completed=done)  # type: ignore[arg-type]  # a TaskID is an int

    try:
        yield show
    finally:
        if tasks:
            display.stop()
