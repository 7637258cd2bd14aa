"""An expert without weights, as an example of the expert contract; its card is `cards/edge-strength.toml`."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from mova_core.cards.stream import InputStream
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.protocol import VisionExpert

GRID = (16, 16)


class EdgeStrength(VisionExpert):
    """Says of each cell how much the light changes from left to right and downwards, and how bright it is.

    Args:
        side: of the picture it reads, in pixels.
    """

    def __init__(self, side: int = 256) -> None:
        super().__init__()
        self.stream = InputStream(
            size=(side, side),
            fit="pad",
            pad_colour=(127, 127, 127),
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            interpolation="bilinear",
        )

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        """The expert; `source` is empty, as its card names no weights."""
        return cls().to(device=device, dtype=dtype)

    @classmethod
    def from_config(cls, **tiny: object) -> Self:
        """A small one for tests: `side` in pixels."""
        return cls(side=int(str(tiny.get("side", 32))))

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """[b, 3, h, w] -> features [b, n, 3]."""
        light = stream.mean(dim=1, keepdim=True)  # [b, 1, h, w]
        across = F.pad(light.diff(dim=3).abs(), (0, 1, 0, 0))  # [b, 1, h, w]
        down = F.pad(light.diff(dim=2).abs(), (0, 0, 0, 1))  # [b, 1, h, w]
        cells = F.adaptive_avg_pool2d(torch.cat([across, down, light], dim=1), GRID)  # [b, c, 16, 16]
        return ExpertFeatures(cells.flatten(2).transpose(1, 2), GRID)  # [b, n, c]
