"""Tables of plain text.

They are laid out here, since to draw a thousand rows with rich takes longer than to find a thousand experts.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest

GAP = "  "


def print_rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. On a terminal, cells are folded until it fits; a pipe has no width.

    Args:
        head: names of the columns.
        rows: one cell for each column.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join(table(head, rows, width)))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """The lines of a table.

    Args:
        head: names of the columns.
        rows: one cell for each column.
        width: what the lines should fit into, as far as one letter a column does; None for any width.
    """
    cells = [[" ".join(cell.split()) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if width is not None:
        _narrow(widths, width - len(GAP) * (len(widths) - 1))
    return [line for row in cells for line in _lines(row, widths)]


def _narrow(widths: list[int], most: int) -> None:
    """Take from the widest column, again and again, until all fit."""
    while sum(widths) > most and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1


def _lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = [
        [cell] if len(cell) <= width else textwrap.wrap(cell, width)
        for cell, width in zip(row, widths, strict=True)
    ]
    return [GAP.join(map(str.ljust, line, widths)).rstrip() for line in zip_longest(*cells, fillvalue="")]
