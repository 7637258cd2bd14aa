"""Rotary position embedding over a two-dimensional grid.

The first half of a head's dimensions turns with the row, the second half with the column. Dimensions are
turned in interleaved pairs (0 with 1, 2 with 3, ...), as in RoFormer (arXiv 2104.09864) and the released
MoV-Adapter. The tables follow from the grid alone, so they are computed when needed and never stored in a
checkpoint.

Notation for tensor shapes:
    b: samples, n: tokens of the grid (h * w, row-major), a: attention heads, d: dimensions of one head
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mova_core.errors import ConfigError

THETA = 10_000.0


@dataclass(frozen=True, slots=True)
class Rotary:
    """Cosine and sine of every token's rotation angles, in float32.

    Args:
        cos: [n, d / 2], one angle for each pair of dimensions.
        sin: [n, d / 2].
    """

    cos: Tensor
    sin: Tensor


def rotary_tables(grid: tuple[int, int], head_dim: int, device: torch.device) -> Rotary:
    """Tables for a grid, computed once for each grid, head size and device.

    Args:
        grid: (h, w), in tokens.
        head_dim: dimensions d of one head, a multiple of 4 (64 in the release).
        device: where the tables live.

    Returns:
        The tables, in float32 whatever the model's dtype: rounded angles would blur distant positions.

    Raises:
        ConfigError: if d is not a multiple of 4.
    """
    if head_dim % 4:
        raise ConfigError(
            "rotary positions split a head into rows and columns, each into pairs",
            value=f"head_dim={head_dim}",
            expected="a multiple of 4 (width / heads)",
        )
    # torch.compile reads through the cache, with a warning: leave it out there.
    make = _make_tables if torch.compiler.is_compiling() else _tables_made_once
    return make(grid, head_dim, device)


def _make_tables(grid: tuple[int, int], head_dim: int, device: torch.device) -> Rotary:
    h, w = grid
    # A table first needed under inference mode must still serve a later training step.
    with torch.inference_mode(False), torch.no_grad():
        exponents = torch.arange(0, head_dim // 2, 2, dtype=torch.float32, device=device) / (head_dim // 2)
        frequencies = 1.0 / THETA**exponents  # [d / 4]
        rows = torch.arange(h, dtype=torch.float32, device=device)[:, None] * frequencies  # [h, d / 4]
        columns = torch.arange(w, dtype=torch.float32, device=device)[:, None] * frequencies  # [w, d / 4]
        angles = torch.cat([rows.repeat_interleave(w, dim=0), columns.repeat(h, 1)], dim=1)  # [n, d / 2]
        return Rotary(angles.cos(), angles.sin())


_tables_made_once = lru_cache(maxsize=64)(_make_tables)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn queries or keys by their position.

    Args:
        x: [b, a, n, d] in any floating dtype.
        rotary: tables for the n tokens.

    Returns:
        [b, a, n, d] in the dtype of x, computed in float32 or wider.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    even, odd = torch.unflatten(wide, -1, (-1, 2)).unbind(-1)  # [b, a, n, d / 2] each
    turned = torch.stack(
        [even * rotary.cos - odd * rotary.sin, odd * rotary.cos + even * rotary.sin], dim=-1
    )  # [b, a, n, d / 2, 2]
    return turned.flatten(-2).to(x.dtype)


def release_tables(grid: tuple[int, int], head_dim: int) -> tuple[Tensor, Tensor]:
    """The tables in the layout of released checkpoints, to compare with those found in one.

    Args:
        grid: (h, w), in tokens.
        head_dim: dimensions d of one head.

    Returns:
        (cosine, sine), each [n, d] with every angle written twice, once for each dimension of its pair.
    """
    rotary = rotary_tables(grid, head_dim, torch.device("cpu"))
    return rotary.cos.repeat_interleave(2, dim=-1), rotary.sin.repeat_interleave(2, dim=-1)
