"""The ViT of Co-DETR with the neck that MoVA reads: from a picture to one map of features.

Sources: Co-DETR (arXiv 2211.12860) with the ViT-L of EVA-02 (arXiv 2303.11331) in the form of ViTDet
(arXiv 2203.16527): most blocks attend inside windows, a few to the whole picture. The neck is the level of
stride 16 of ViTDet's simple pyramid.

Notation for tensor shapes:
    b: pictures, s: side of the picture in pixels, h, w: rows and columns of patches, g: those of the trained
        positions, c: width, f: channels of the neck
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import isqrt
from typing import Final

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn, unflatten
from torch.nn import functional as F

from mova_expert_codetr.blocks import EPS, Block

RELEASED_BACKBONE: Final[Mapping[str, object]] = {
    "patch": 16,
    "width": 1024,
    "depth": 24,
    "heads": 16,
    "window": 16,
    "global_blocks": (5, 11, 17, 23),
    "trained_grid": 80,
    "channels": 256,
}
"""Sizes in the released MoVA, as `build_backbone` takes them."""


class Neck(nn.Sequential):
    """Two convolutions with norms over the channels: [b, c, h, w] -> [b, f, h, w].

    Args:
        width: c.
        channels: f.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__(
            nn.Conv2d(width, channels, kernel_size=1, bias=False),
            LayerNorm2d(channels, eps=EPS),
            nn.GELU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(channels, eps=EPS),
        )


class Backbone(nn.Module):
    """Patches with positions, blocks, a norm and the neck, for pictures of any size.

    Args:
        patch_embed: cuts patches; its stride is that of the features.
        trained_grid: g; positions of another grid are resized.
        blocks: in order.
        neck: what turns the last hidden state into features.
    """

    def __init__(
        self, patch_embed: nn.Conv2d, trained_grid: int, blocks: Iterable[Block], neck: nn.Module
    ) -> None:
        super().__init__()
        width = patch_embed.out_channels
        self.patch_embed = patch_embed
        self.pos_embed = nn.Parameter(
            torch.zeros(1, 1 + trained_grid**2, width)
        )  # the first is a class token's
        self.blocks = nn.ModuleList(blocks)
        self.out_norm = nn.LayerNorm(width)
        self.neck = neck
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, picture: Tensor) -> Tensor:
        """[b, 3, s, s] -> [b, f, h, w]."""
        x = self.patch_embed(picture).permute(0, 2, 3, 1)  # [b, h, w, c]
        x = x + self._positions((x.shape[1], x.shape[2]))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.neck(self.out_norm(x).permute(0, 3, 1, 2))  # [b, f, h, w]
        return out

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """[1, h, w, c], by bicubic resizing where the grid is not the trained one."""
        trained = self.pos_embed[:, 1:]
        side = isqrt(trained.shape[1])
        positions = unflatten(trained, 1, (side, side))  # [1, g, g, c]
        if grid == (side, side):
            return positions
        resized = F.interpolate(positions.permute(0, 3, 1, 2).float(), size=grid, mode="bicubic")
        return resized.permute(0, 2, 3, 1).to(positions.dtype)


def build_backbone(
    *,
    patch: int,
    width: int,
    depth: int,
    heads: int,
    window: int,
    global_blocks: Collection[int],
    trained_grid: int,
    channels: int,
) -> Backbone:
    """A backbone of given sizes with random weights.

    Args:
        patch: side of a patch in pixels.
        width: c.
        depth: number of blocks.
        heads: of attention.
        window: side of a window in patches.
        global_blocks: numbers of the blocks, from 0, that attend to the whole picture.
        trained_grid: g.
        channels: f.

    Raises:
        ConfigError: the width does not split into heads.
    """
    blocks = [Block(width, heads, None if number in global_blocks else window) for number in range(depth)]
    patch_embed = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
    return Backbone(patch_embed, trained_grid, blocks, Neck(width, channels))
