"""Moving tokens from one grid to another.

Notation for tensor shapes:
    b: samples, n: tokens of the present grid (h * w, row-major), m: tokens of the wanted grid, c: channels
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
"""(h, w), in tokens."""


def as_picture(tokens: Tensor, grid: Grid) -> Tensor:
    """[b, n, c] as [b, c, h, w], without a copy."""
    return torch.unflatten(tokens.transpose(1, 2), 2, grid)


def as_tokens(picture: Tensor) -> Tensor:
    """[b, c, h, w] as [b, n, c]."""
    return picture.flatten(2).transpose(1, 2)


def half(grid: Grid) -> Grid:
    """The grid of half the side, rounded down, but at least one token."""
    return max(1, grid[0] // 2), max(1, grid[1] // 2)


def resize_tokens(tokens: Tensor, grid: Grid, to: Grid) -> Tensor:
    """Resize an expert's features to the base grid: bilinear, no antialiasing, in float32.

    Args:
        tokens: [b, n, c].
        grid: their grid.
        to: the grid wanted.

    Returns:
        [b, m, c] in the same dtype; the very same tensor if the grids are equal.
    """
    if grid == to:
        return tokens
    picture = as_picture(tokens.float(), grid)  # [b, c, h, w]
    resized = F.interpolate(picture, size=to, mode="bilinear", align_corners=False, antialias=False)
    return as_tokens(resized).to(tokens.dtype)  # [b, m, c]


def pool_tokens(tokens: Tensor, grid: Grid, to: Grid) -> Tensor:
    """Average tokens down to a smaller grid, as for the routing tokens (24x24 to 12x12 in the paper).

    Args:
        tokens: [b, n, c].
        grid: their grid; a side need not be a multiple of the wanted one.
        to: the grid wanted.

    Returns:
        [b, m, c].
    """
    return as_tokens(F.adaptive_avg_pool2d(as_picture(tokens, grid), to))
