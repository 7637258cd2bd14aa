"""Rotary positions whose grid is stretched to that of pre-training, as in EVA-02 (arXiv 2303.11331).

Every grid, of a window or of the whole picture, spans the same range of angles: cell i of h stands at
i / h * 16. The arithmetic is that of `mova_core.fusion.rotary`.

Notation for tensor shapes:
    n: cells of a grid (h * w, row-major), d: dimensions of one head
"""

from __future__ import annotations

from functools import partial
from typing import Final

from torch import Tensor

from mova_core.fusion.rotary import release_tables, rotary_tables

TRAINED_SIDE: Final = 16
"""Rows and columns of the grid on which EVA-02 was pre-trained."""

stretched_rotary: Final = partial(rotary_tables, span=TRAINED_SIDE)
"""Tables for a grid (h, w), a head's dimensions and a device; see `mova_core.fusion.rotary.rotary_tables`."""


def published_tables(side: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """The tables of a square grid as checkpoints hold them, to compare with those found in one.

    Args:
        side: rows and columns of the grid.
        head_dim: dimensions d of one head.

    Returns:
        (cosine, sine), each [n, d] with every angle written twice, once for each dimension of its pair.
    """
    return release_tables((side, side), head_dim, span=TRAINED_SIDE)
