"""Tables of plain text: whole in a pipe, folded on a terminal, and never without a letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mova_core.cli.table import GAP, table

cells = st.text(st.characters(categories=("L", "N", "P", "Zs")), max_size=30)


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    """A head and some rows, all of one length."""
    columns = draw(st.integers(1, 5))
    row = st.lists(cells, min_size=columns, max_size=columns)
    return draw(st.lists(row, min_size=1, max_size=6))


def letters(text: str) -> str:
    return "".join(text.split())


@given(tables())
def test_without_a_width_each_row_is_a_line_and_its_cells_stand_below_their_head(
    rows: list[list[str]],
) -> None:
    lines = table(rows[0], rows[1:])
    assert len(lines) == len(rows)
    start = 0
    for column in zip(*rows, strict=True):
        shown = [" ".join(cell.split()) for cell in column]
        assert [line[start : start + len(cell)] for line, cell in zip(lines, shown, strict=True)] == shown
        start += max(map(len, shown)) + len(GAP)


@given(tables(), st.integers(1, 60))
def test_folding_fits_the_width_and_loses_no_letter(rows: list[list[str]], width: int) -> None:
    columns = len(rows[0])
    lines = table(rows[0], rows[1:], width)
    assert max(map(len, lines)) <= max(width, columns + len(GAP) * (columns - 1))
    assert sorted(letters("".join(lines))) == sorted(letters("".join(map("".join, rows))))


def test_cells_are_folded_within_their_column_between_words() -> None:
    assert table(["ID", "LICENCE"], [["a", "Apache-2.0, MIT"], ["bc", "MIT"]], width=15) == [
        "ID  LICENCE",
        "a   Apache-2.0,",
        "    MIT",
        "bc  MIT",
    ]


def test_a_cell_of_several_lines_is_one() -> None:
    assert table(["A", "B"], [["x\ny", "z"]]) == ["A    B", "x y  z"]


def test_rows_of_another_length_than_the_head_are_refused() -> None:
    with pytest.raises(ValueError):
        table(["A", "B"], [["a"]])
