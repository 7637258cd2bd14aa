"""Rotary positions whose grid is stretched to that of pre-training, as in EVA-02 (arXiv 2303.11331).

Every grid, of a window or of the whole picture, spans the same range of angles: cell i of h stands at
i / h * 16. What is turned by them, and how, is `mova_core.fusion.rotary`.

Notation for tensor shapes:
    n: cells of a grid (h * w, row-major), d: dimensions of one head
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from mova_core.errors import ConfigError
from mova_core.fusion.rotary import THETA, Rotary

TRAINED_SIDE: Final = 16
"""Rows and columns of the grid on which EVA-02 was pre-trained."""


def stretched_rotary(grid: tuple[int, int], head_dim: int, device: torch.device) -> Rotary:
    """Tables for a grid, computed once for each grid, head size and device.

    Args:
        grid: (h, w), in cells.
        head_dim: dimensions d of one head, a multiple of 4.
        device: where the tables live.

    Returns:
        The tables, in float32.

    Raises:
        ConfigError: d is not a multiple of 4.
    """
    if head_dim % 4:
        raise ConfigError(
            "rotary positions split a head into rows and columns, each into pairs",
            value=f"head_dim={head_dim}",
            expected="a multiple of 4 (width / heads)",
        )
    # torch.compile reads through the cache, with a warning: leave it out there.
    make = _make if torch.compiler.is_compiling() else _made_once
    return make(grid, head_dim, device)


def _make(grid: tuple[int, int], head_dim: int, device: torch.device) -> Rotary:
    h, w = grid
    # Tables first needed under inference mode must still serve a later training step.
    with torch.inference_mode(False), torch.no_grad():
        exponents = torch.arange(0, head_dim // 2, 2, dtype=torch.float32, device=device) / (head_dim // 2)
        frequencies = 1.0 / THETA**exponents  # [d / 4]
        rows, columns = (
            (torch.arange(side, device=device) / side * TRAINED_SIDE)[:, None] * frequencies for side in grid
        )  # [h, d / 4], [w, d / 4]
        angles = torch.cat([rows.repeat_interleave(w, dim=0), columns.repeat(h, 1)], dim=1)  # [n, d / 2]
        return Rotary(angles.cos(), angles.sin())


_made_once = lru_cache(maxsize=64)(_make)


def published_tables(side: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """The tables of a square grid as checkpoints hold them, to compare with those found in one.

    Args:
        side: rows and columns of the grid.
        head_dim: dimensions d of one head.

    Returns:
        (cosine, sine), each [n, d] with every angle written twice, once for each dimension of its pair.
    """
    rotary = stretched_rotary((side, side), head_dim, torch.device("cpu"))
    return rotary.cos.repeat_interleave(2, dim=-1), rotary.sin.repeat_interleave(2, dim=-1)
