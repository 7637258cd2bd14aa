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
    """Every token's rotations, each a complex number of length one: to turn a pair is to multiply by it.

    Args:
        turns: [n, d / 2] in complex64, one for each pair of dimensions.
    """

    turns: Tensor

    @property
    def cos(self) -> Tensor:
        """Cosine of every rotation's angle, [n, d / 2]."""
        return self.turns.real

    @property
    def sin(self) -> Tensor:
        """Sine of every rotation's angle, [n, d / 2]."""
        return self.turns.imag


def rotary_tables(
    grid: tuple[int, int], head_dim: int, device: torch.device, *, span: int | None = None
) -> Rotary:
    """Tables for a grid, computed once for each grid, head size and device.

    Args:
        grid: (h, w), in tokens.
        head_dim: dimensions d of one head, a multiple of 4 (64 in the release).
        device: where the tables live.
        span: positions that a side of the grid spans, whatever its tokens, as in EVA-02 (arXiv 2303.11331);
            one for each token by default.

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
    return make(grid, head_dim, device, span)


def _make_tables(grid: tuple[int, int], head_dim: int, device: torch.device, span: int | None) -> Rotary:
    h, w = grid
    # A table first needed under inference mode must still serve a later training step.
    with torch.inference_mode(False), torch.no_grad():
        exponents = torch.arange(0, head_dim // 2, 2, dtype=torch.float32, device=device) / (head_dim // 2)
        frequencies = 1.0 / THETA**exponents  # [d / 4]
        places = [torch.arange(side, dtype=torch.float32, device=device) for side in grid]
        if span is not None:
            places = [place / side * span for place, side in zip(places, grid, strict=True)]
        rows, columns = (place[:, None] * frequencies for place in places)  # [h, d / 4], [w, d / 4]
        angles = torch.cat([rows.repeat_interleave(w, dim=0), columns.repeat(h, 1)], dim=1)  # [n, d / 2]
        return Rotary(torch.complex(angles.cos(), angles.sin()))


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
    pairs = torch.unflatten(wide, -1, (-1, 2))  # [b, a, n, d / 2, 2]
    if torch.compiler.is_compiling():  # a compiler fuses real arithmetic, and knows no complex numbers
        even, odd = pairs.unbind(-1)  # [b, a, n, d / 2] each
        cos, sin = rotary.cos, rotary.sin
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    else:  # reads and writes every pair once, where real arithmetic takes seven passes over memory
        turned = torch.view_as_real(torch.view_as_complex(pairs) * rotary.turns)
    return turned.flatten(-2).to(x.dtype)


def release_tables(grid: tuple[int, int], head_dim: int, *, span: int | None = None) -> tuple[Tensor, Tensor]:
    """The tables in the layout of released checkpoints, to compare with those found in one.

    Args:
        grid: (h, w), in tokens.
        head_dim: dimensions d of one head.
        span: as for `rotary_tables`.

    Returns:
        (cosine, sine), each [n, d] with every angle written twice, once for each dimension of its pair.
    """
    rotary = rotary_tables(grid, head_dim, torch.device("cpu"), span=span)
    return rotary.cos.repeat_interleave(2, dim=-1), rotary.sin.repeat_interleave(2, dim=-1)
