"""Position embeddings for a larger picture than the encoder was trained with.

Source: the released code of MoVA (arXiv 2404.13046), which resizes them once, before training.

Notation for tensor shapes:
    s: side of the trained grid of positions, g: side of the wanted grid, c: channels
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mova_core.errors import ExpertLoadError


def resized(table: Tensor, side: int) -> Tensor:
    """Resize a table of positions to another grid, bicubically.

    Args:
        table: [1 + s * s, c], the class token's position first.
        side: g of the wanted grid.

    Returns:
        [1 + g * g, c]; the table itself if it has that grid, else in float32.

    Raises:
        ExpertLoadError: the positions are not those of a square grid.
    """
    trained = math.isqrt(max(len(table) - 1, 0)) if table.dim() == 2 else 0
    if trained < 1 or len(table) != 1 + trained**2:
        raise ExpertLoadError(
            "the position embeddings are not those of a square grid",
            value=f"shape {tuple(table.shape)}",
            expected="one row for the class token and s * s rows for patches",
        )
    if trained == side:
        return table
    table = table.to(torch.float32)
    grid = table[1:].reshape(1, trained, trained, -1).permute(0, 3, 1, 2)  # [1, c, s, s]
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)  # [1, c, g, g]
    return torch.cat([table[:1], grid[0].flatten(1).T])  # [1 + g * g, c]
