"""How long work is shown: a line for each step, a bar for each download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


class Progress(Protocol):
    """Receives what is being done."""

    def say(self, text: str) -> None:
        """Show one line."""

    def bar(self, title: str, *, total: int, done: int) -> AbstractContextManager[Callable[[int], None]]:
        """Show a bar of bytes; the function it gives is called with the number of bytes done so far."""


class SilentProgress:
    """Shows nothing: for libraries and tests."""

    def say(self, text: str) -> None:
        """Do nothing."""

    @contextmanager
    def bar(self, title: str, *, total: int, done: int) -> Iterator[Callable[[int], None]]:
        """Do nothing."""
        yield lambda done: None


class ConsoleProgress:
    """Shows lines and bars on a terminal; in a log file, lines only.

    Args:
        console: where to write; standard error by default, so that a command's result stays clean.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print the line."""
        self.console.print(text, markup=False)

    @contextmanager
    def bar(self, title: str, *, total: int, done: int) -> Iterator[Callable[[int], None]]:
        """Draw the bar with size, speed and time to go; it goes away when it is full."""
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        is_log = not self.console.is_terminal
        with progress.Progress(*columns, console=self.console, transient=True, disable=is_log) as bars:
            task = bars.add_task(title, total=total, completed=done)
            yield lambda done: bars.update(task, completed=done)


def readable_size(size: float) -> str:
    """Bytes in words, decimal units: `readable_size(98_362_432)` is "98.4 MB"."""
    for unit in ("B", "kB", "MB"):
        if size < 999.95 or (unit == "B" and size < 1000):
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
