"""A drawn picture with what is known of it by construction.

Coordinates are pixels of the picture, x to the right and y down. `Mark` masks live on the 16x16 grid of the
*padded square* picture, the grid on which the base encoder and the experts give their features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

GRID = 16
"""Side of the feature grid on which marks are kept."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Words that are true of some cells of the grid.

    Args:
        words: lower-case names, each one token of the language model where possible.
        cells: bool [16, 16].
    """

    words: tuple[str, ...]
    cells: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer, and the experts that a router should choose for it.

    Args:
        text: the question.
        answer: one or a few lower-case words.
        task: the family the question is reported under.
        experts: ids of useful experts; empty when the base encoder is enough.
        plain: whether the wording gives the kind of picture away ("bar", "slice", "sign").
    """

    text: str
    answer: str
    task: str
    experts: tuple[str, ...]
    plain: bool = True


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture, its marks and its questions."""

    image: Image.Image
    kind: str
    marks: tuple[Mark, ...]
    questions: tuple[Question, ...]


class Canvas:
    """A picture being drawn, collecting marks on the way.

    Args:
        size: (width, height) in pixels.
        background: RGB colour.
    """

    def __init__(self, size: tuple[int, int], background: tuple[int, int, int]) -> None:
        self.image = Image.new("RGB", size, background)
        self.pen = ImageDraw.Draw(self.image)
        self._marks: list[Mark] = []

    @property
    def marks(self) -> tuple[Mark, ...]:
        """What was marked so far."""
        return tuple(self._marks)

    def mark(self, words: Sequence[str], box: tuple[float, float, float, float]) -> None:
        """Marks the cells with their centre in `box` (x0, y0, x1, y1), and always the one at its centre."""
        side, left, top = self._square()
        centres = (np.arange(GRID) + 0.5) * side / GRID
        x, y = centres - left, centres - top
        cells = ((y >= box[1]) & (y <= box[3]))[:, None] & ((x >= box[0]) & (x <= box[2]))[None, :]
        column = int(((box[0] + box[2]) / 2 + left) * GRID / side)
        row = int(((box[1] + box[3]) / 2 + top) * GRID / side)
        cells[min(max(row, 0), GRID - 1), min(max(column, 0), GRID - 1)] = True
        self._marks.append(Mark(tuple(words), cells))

    def mark_mask(self, words: Sequence[str], mask: Image.Image) -> None:
        """Marks the cells that `mask` (mode L, the picture's size) half covers, or the one it covers most."""
        side, left, top = self._square()
        square = Image.new("L", (side, side))
        square.paste(mask, (left, top))
        share = np.asarray(square.resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float32) / 255
        self._marks.append(Mark(tuple(words), share >= min(0.5, float(share.max()))))

    def mark_all(self, words: Sequence[str]) -> None:
        """Marks every cell: something true of the whole picture."""
        self._marks.append(Mark(tuple(words), np.ones((GRID, GRID), dtype=np.bool_)))

    def mark_rest(self, words: Sequence[str]) -> None:
        """Marks the cells that nothing marked so far: a count lives there, apart from single things."""
        free = np.ones((GRID, GRID), dtype=np.bool_)
        for mark in self._marks:
            free &= ~mark.cells
        self._marks.append(Mark(tuple(words), free))

    def _square(self) -> tuple[int, int, int]:
        width, height = self.image.size
        side = max(width, height)
        return side, (side - width) // 2, (side - height) // 2
