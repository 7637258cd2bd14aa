"""Cutting a grid into square windows, and putting it together again.

Notation for tensor shapes:
    b: pictures, h, w: rows and columns, c: channels, k: side of a window, m: windows of all pictures
"""

from __future__ import annotations

from torch import Tensor, unflatten
from torch.nn import functional as F


def cut(grid: Tensor, side: int) -> Tensor:
    """[b, h, w, c] -> [m, k, k, c]; zeros fill up the windows at the right and lower border."""
    _, h, w, _ = grid.shape
    padded = F.pad(grid, (0, 0, 0, -w % side, 0, -h % side))
    rows = unflatten(padded, 1, (-1, side))  # [b, h / k, k, w, c]
    windows = unflatten(rows, 3, (-1, side)).transpose(2, 3)  # [b, h / k, w / k, k, k, c]
    return windows.flatten(0, 2)


def join(windows: Tensor, grid: tuple[int, int]) -> Tensor:
    """[m, k, k, c] -> [b, h, w, c]: the inverse of `cut` for a grid (h, w)."""
    h, w = grid
    side = windows.shape[1]
    rows, columns = -(-h // side), -(-w // side)
    in_place = unflatten(windows, 0, (-1, rows, columns)).transpose(2, 3)  # [b, h / k, k, w / k, k, c]
    padded = in_place.flatten(3, 4).flatten(1, 2)
    return padded[:, :h, :w]
