"""Sizes of the expert: the released ones, small ones for tests, and those that only a weight file can tell.

Checkpoints of Co-DETR differ in the grid of their positions, in the side of their windows and in which blocks
have windows. The first is the shape of a tensor; the others show in the rotary tables, where a file has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isqrt
from typing import Final

from torch import Tensor

from mova_core.experts.files import WeightFiles
from mova_expert_codetr.backbone import RELEASED_BACKBONE, Backbone, build_backbone
from mova_expert_codetr.layouts import LAYOUTS, MARK


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the expert, small by default.

    Args:
        picture: side of the stream in pixels.
        side: to which the stream is enlarged for the backbone.
        shrink: rows and columns to which the features are resized; None leaves them alone.
        patch, width, depth, heads, window, global_blocks, trained_grid, channels: of the backbone.
    """

    picture: int = 64
    side: int = 80
    shrink: int | None = None
    patch: int = 16
    width: int = 16
    depth: int = 3
    heads: int = 2
    window: int = 2
    global_blocks: tuple[int, ...] = (1,)
    trained_grid: int = 4
    channels: int = 8

    def backbone(self) -> Backbone:
        """A backbone of these sizes."""
        own = asdict(self)
        return build_backbone(**{name: own[name] for name in RELEASED_BACKBONE})


RELEASED: Final[Mapping[str, object]] = {"picture": 1024, "side": 1280, "shrink": 37, **RELEASED_BACKBONE}
"""Sizes in the released MoVA, by the names of `Sizes`."""


def sizes_in(source: str, sizes: Sizes) -> Sizes:
    """What a weight file says otherwise than given sizes.

    Args:
        source: a weight file or a folder.
        sizes: what holds where the file says nothing.

    Returns:
        Sizes with the grid of positions in the file; with its windows too, where its rotary tables tell.

    Raises:
        ExpertLoadError: the files cannot be read.
    """
    with WeightFiles(source) as files:
        layout = next((each for each in LAYOUTS if each.fits(files.keys())), None)
        if layout is None:
            return sizes
        root = f"{layout.prefix}{layout.mark}".removesuffix(MARK)
        return _with_windows(_with_positions(sizes, files, root), files, root)


def _with_positions(sizes: Sizes, files: Mapping[str, Tensor], root: str) -> Sizes:
    name = f"{root}pos_embed"
    if name not in files or files[name].dim() != 3:
        return sizes
    return replace(sizes, trained_grid=isqrt(max(files[name].shape[1] - 1, 0)))


def _with_windows(sizes: Sizes, files: Mapping[str, Tensor], root: str) -> Sizes:
    """Read windows off the tables, unless a table that goes by many names was saved under one only."""
    block_table = re.compile(rf"{re.escape(root)}blocks\.(\d+)\.attn\.rope\.freqs_cos$")
    cells = {int(found[1]): files[name].shape[0] for name in files if (found := block_table.match(name))}
    shared = f"{root}rope_win.freqs_cos"
    if not cells or shared not in files:
        return sizes
    inside = files[shared].shape[0]
    windowed = {number for number, count in cells.items() if count == inside}
    if not windowed:
        return sizes
    everywhere = tuple(number for number in range(sizes.depth) if number not in windowed)
    return replace(sizes, window=isqrt(inside), global_blocks=everywhere)
