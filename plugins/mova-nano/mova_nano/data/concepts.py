"""What each expert is taught to see: its concepts, and the share of pictures it learns them from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mova_nano.data.medical import LEVELS, PLANES
from mova_nano.data.scene import GRID, Mark
from mova_nano.data.words import COLOURS, NUMBERS, THINGS


@dataclass(frozen=True, slots=True)
class Lesson:
    """One expert's training target.

    Args:
        concepts: words it predicts for every cell of the grid.
        kinds: kinds of pictures and how often each is drawn.
        size: side of its square input in pixels.
    """

    concepts: tuple[str, ...]
    kinds: Mapping[str, float]
    size: int


def _unique(*groups: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for group in groups for word in group))


LESSONS: Mapping[str, Lesson] = {
    "nano-chart": Lesson(
        _unique(
            tuple(COLOURS),
            NUMBERS[:11],
            ("bar", "line", "pie", "slice", "rising", "falling"),
            ("highest", "lowest", "largest", "smallest", "chart"),
        ),
        {"chart": 0.9, "regions": 0.05, "text": 0.05},
        256,
    ),
    "nano-objects": Lesson(
        _unique(THINGS, NUMBERS[1:7], ("left", "center", "right", "top", "middle", "bottom", "objects")),
        {"objects": 0.92, "chart": 0.04, "base": 0.04},
        256,
    ),
    "nano-regions": Lesson(
        _unique(tuple(COLOURS), NUMBERS[2:6], ("region", "round", "angular", "largest", "smallest", "map")),
        {"regions": 0.9, "chart": 0.06, "objects": 0.04},
        256,
    ),
    "nano-medical": Lesson(
        _unique(PLANES, *LEVELS, ("fluid", "gray", "white", "cross", "brain")),
        {"medical": 0.94, "base": 0.06},
        256,
    ),
}
"""Lessons by expert id."""


def targets(marks: Sequence[Mark], concepts: Sequence[str]) -> NDArray[np.float32]:
    """Which concept is true of which cell: float32 [256, concepts] of zeros and ones."""
    index = {word: i for i, word in enumerate(concepts)}
    grid = np.zeros((GRID * GRID, len(index)), dtype=np.float32)
    for mark in marks:
        cells = mark.cells.reshape(-1)
        for word in mark.words:
            if word in index:
                grid[cells, index[word]] = 1.0
    return grid
