"""Encoders that see the mean colour of each cell of their grid, through weights of their own.

Notation for tensor shapes:
    b: pictures, h, w: sides of the grid, n: its cells, c: channels
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from mova_core.experts.features import ExpertFeatures
from mova_core.experts.protocol import VisionExpert


class Tiny(VisionExpert):
    """Mean colours of the cells, spread over the channels; counts the pictures it has seen."""

    channels: ClassVar[int]
    grid: ClassVar[tuple[int, int]]
    tint: ClassVar[tuple[float, float, float]]
    """How much of red, green and blue the encoder sees."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(self.channels)
        self.mix = nn.Linear(3, self.channels)
        nn.init.normal_(self.mix.weight, generator=generator)
        nn.init.normal_(self.mix.bias, generator=generator)
        self.seen = 0

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        return cls().to(device, dtype)

    @classmethod
    def from_config(cls, **tiny: object) -> Self:
        return cls()

    def forward(self, stream: Tensor) -> ExpertFeatures:
        self.seen += len(stream)
        cells = nn.functional.adaptive_avg_pool2d(stream, self.grid).flatten(2).mT  # [b, n, 3]
        return ExpertFeatures(self.mix(cells * cells.new_tensor(self.tint)), self.grid)  # [b, n, c]


class Base(Tiny):
    channels, grid, tint = 16, (4, 4), (1.0, 1.0, 1.0)


class Red(Tiny):
    channels, grid, tint = 4, (4, 4), (1.0, 0.0, 0.0)


class Green(Tiny):
    channels, grid, tint = 6, (2, 3), (0.0, 1.0, 0.0)


class Blue(Tiny):
    channels, grid, tint = 5, (4, 4), (0.0, 0.0, 1.0)
