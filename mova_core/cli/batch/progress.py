"""How far a batch has come: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

SECONDS = 15.0
"""Between two lines of a log."""


class BatchProgress:
    """Counts questions. Routing one is taken for half of the work: a window is routed before it is answered.

    Args:
        total: questions to be answered.
        changed: called after every change.
    """

    def __init__(self, total: int, changed: Callable[[BatchProgress], None]) -> None:
        self.total = total
        self.answered = self._routed = 0
        self._changed = changed

    @property
    def halves(self) -> int:
        """Halves of questions that are done, of 2 * `total`."""
        return self.answered + max(self._routed, self.answered)

    def routed(self, number: int) -> None:
        """So many more questions have been routed."""
        self._routed += number
        self._changed(self)

    def done(self) -> None:
        """One more question has its answer, or its error."""
        self.answered += 1
        self._changed(self)


@contextmanager
def shown_progress(total: int, *, quiet: bool) -> Iterator[BatchProgress]:
    """Shows progress on stderr.

    Args:
        total: questions to be answered.
        quiet: show nothing.
    """
    if quiet:
        yield BatchProgress(total, lambda progress: None)
    elif sys.stderr.isatty():
        with _bar(total) as show:
            yield BatchProgress(total, show)
    else:
        yield BatchProgress(total, _log())


@contextmanager
def _bar(total: int) -> Iterator[Callable[[BatchProgress], None]]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.BarColumn(),
        progress.TextColumn(f"{{task.fields[answered]:,}} of {total:,} answered"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=2 * total, answered=0)
        yield lambda now: bars.update(task, completed=now.halves, answered=now.answered)


def _log() -> Callable[[BatchProgress], None]:
    begun = told = time.monotonic()

    def show(now: BatchProgress) -> None:
        nonlocal told
        if time.monotonic() - told < SECONDS:
            return
        told = time.monotonic()
        left = timedelta(seconds=round((told - begun) / now.halves * (2 * now.total - now.halves)))
        print(
            f"{now.answered:,} of {now.total:,} questions answered, about {left} left",
            file=sys.stderr,
            flush=True,
        )

    return show
