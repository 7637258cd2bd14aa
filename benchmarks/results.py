"""The table of a run, and its file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Result:
    """One row.

    Args:
        name: what was measured.
        ratio: how many times faster than the reference (for memory: how many times less; for a command with
            a time allowed: that time by the time taken).
        of_limit: time as a multiple of what its arithmetic takes at the machine's matmul rate; None where
            arithmetic is not what counts.
        seconds: median time.
        peak_mb: peak memory beyond what was held before; None for commands, and where the system cannot tell.
    """

    name: str
    ratio: float
    of_limit: float | None
    seconds: float
    peak_mb: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """A result, and what belongs to the table alone.

    Args:
        result: goes into the file.
        target: bounds of the ratio; None for no such bound.
        note: how it was measured.
    """

    result: Result
    target: tuple[float | None, float | None] = (None, None)
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the ratio lies within its bounds."""
        low, high = self.target
        return (low is None or self.result.ratio >= low) and (high is None or self.result.ratio <= high)


def show(rows: Iterable[Row], console: Console) -> None:
    """Print the table and, below it, the notes."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("", "ratio", "target", "of limit", "seconds", "peak MB"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    rows = list(rows)
    for row in rows:
        one = row.result
        target = _bounds(row.target) + ("" if row.met else " missed")
        cells = [f"{one.ratio:.2f}", target, _number(one.of_limit, 2), f"{one.seconds:.3f}"]
        table.add_row(one.name, *cells, _number(one.peak_mb, 0))
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.result.name}: {row.note}", soft_wrap=True, highlight=False)


def write(rows: Iterable[Row], path: Path) -> None:
    """Write the results as a JSON list."""
    path.write_text(json.dumps([asdict(row.result) for row in rows], indent=2) + "\n")


def _bounds(bounds: tuple[float | None, float | None]) -> str:
    low, high = bounds
    if low is None:
        return "" if high is None else f"<= {high:.2f}"
    return f">= {low:.2f}" if high is None else f"{low:.2f}-{high:.2f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
