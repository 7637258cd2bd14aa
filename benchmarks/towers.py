"""Stand-ins for the experts: one layer of a vision transformer as wide as the expert's features, on its grid.

Notation for tensor shapes:
    b: pictures, h, w: sides of the grid, n: tokens (h * w), c: channels, a: attention heads,
    d: dimensions of one head
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmarks.sizes import Grid, Sizes
from mova_core.cards.card import ExpertCard
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.pool import ExpertPool
from mova_core.experts.protocol import VisionExpert

PATCH = 4
"""Pixels a side of what one token sees."""

HEAD = 64
"""Dimensions of one attention head, where the width allows."""


class Tower(VisionExpert):
    """Patches, one transformer layer, features.

    Args:
        channels: width c of the layer and of the features.
        grid: grid of the tokens.
    """

    def __init__(self, channels: int, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.patches = nn.Conv2d(3, channels, PATCH, stride=PATCH)
        self.heads = max(1, channels // HEAD)
        self.norms = nn.ModuleList([nn.LayerNorm(channels), nn.LayerNorm(channels)])
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        """A tower with random weights; the source is its sizes, written "channels x height x width"."""
        channels, h, w = map(int, source.split("x"))
        return cls(channels, (h, w)).to(device, dtype)

    @classmethod
    def from_config(cls, **tiny: object) -> Self:
        """A tower of `source`, 8x2x2 unless given."""
        source = str(tiny.get("source", "8x2x2"))
        return cls.from_pretrained(source, dtype=torch.float32, device=torch.device("cpu"))

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """Features of a stream [b, 3, h * PATCH, w * PATCH]."""
        x = self.patches(stream).flatten(2).transpose(1, 2)  # [b, n, c]
        split = torch.unflatten(self.qkv(self.norms[0](x)), -1, (3, self.heads, -1))  # [b, n, 3, a, d]
        y = F.scaled_dot_product_attention(*split.permute(2, 0, 3, 1, 4))  # [b, a, n, d]
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return ExpertFeatures(x + self.down(F.gelu(self.up(self.norms[1](x)))), self.grid)


def pool(sizes: Sizes) -> ExpertPool:
    """A pool of towers, one for each expert, that keeps no features."""
    cards = [_card(id, channels, grid) for id, (channels, grid) in sizes.experts.items()]

    def load(card: ExpertCard) -> VisionExpert:
        channels, (h, w) = sizes.experts[card.id]
        return Tower.from_config(source=f"{channels}x{h}x{w}").eval().requires_grad_(False).bind(card)

    return ExpertPool(cards, loader=load)


def pictures(count: int) -> list[Image.Image]:
    """Pictures of noise, all different."""
    noise = torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8)
    return [Image.fromarray(picture.numpy()) for picture in noise]


def _card(id: str, channels: int, grid: Grid) -> ExpertCard:
    return ExpertCard.model_validate(
        {
            "api_version": 1,
            "id": id,
            "role": "expert",
            "title": id,
            "descriptions": [f"stands in for {id}"],
            "factory": "benchmarks.towers:Tower",
            "parameters": 1,
            "code_licence": "Apache-2.0",
            "input": {
                "size": [PATCH * grid[0], PATCH * grid[1]],
                "fit": "stretch",
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.5, 0.5],
                "interpolation": "bilinear",
            },
            "features": {"channels": channels, "grid": list(grid)},
            "memory_mb": {"float32": 1.0},
            "weights": {"sources": [], "revision": "1", "licence": "Apache-2.0"},
        }
    )
