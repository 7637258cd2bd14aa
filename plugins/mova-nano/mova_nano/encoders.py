"""The encoders of mova-nano: ImageNet's EfficientNet-Lite0 as the base, and five small experts on its first
stages.

Notation for tensor shapes:
    b: images, n: 256 cells of the 16x16 grid, c: feature channels (320 for the base, 128 for an expert)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

GRID = 16
BACKBONE = "tf_efficientnet_lite0"
_STAGE_CHANNELS = {4: 80, 7: 320}
"""Channels after the first four stages (stride 16) and after all seven (stride 32)."""


class LiteStages(nn.Module):
    """The first stages of EfficientNet-Lite0.

    Args:
        stages: 4 (stride 16, 80 channels) or 7 (stride 32, 320 channels).
        frozen: how many leading stages (with the stem) stay as pretrained, statistics included, in training
            too.
    """

    def __init__(self, stages: int, frozen: int = 0) -> None:
        super().__init__()
        import timm

        full: Any = timm.create_model(BACKBONE, pretrained=False)
        self.conv_stem: nn.Module = full.conv_stem
        self.bn1: nn.Module = full.bn1
        self.blocks: nn.Sequential = full.blocks[:stages]
        self.channels = _STAGE_CHANNELS[stages]
        self.frozen = frozen
        for part in self._pretrained():
            part.requires_grad_(False)

    def _pretrained(self) -> tuple[nn.Module, ...]:
        return (self.conv_stem, self.bn1, *self.blocks[: self.frozen]) if self.frozen else ()

    def train(self, mode: bool = True) -> LiteStages:
        """Sets the mode of all but the frozen stages, whose batch statistics must not move."""
        super().train(mode)
        for part in self._pretrained():
            part.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, channels, h / stride, w / stride]."""
        out: Tensor = self.blocks(self.bn1(self.conv_stem(pixels)))
        return out


class DenseEncoder(nn.Module):
    """Four pretrained stages, then two attention layers over the 16x16 grid: local evidence, compared
    globally.

    Args:
        channels: feature channels c.
        stride: 1 for 256 px input, 2 for 512 px (the extra halving that ends at 16x16 cells).
        layers: attention layers.
        heads: attention heads.
    """

    def __init__(self, channels: int = 128, stride: int = 1, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.stages = LiteStages(4, frozen=2)
        self.mix = nn.Sequential(
            nn.Conv2d(self.stages.channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.GELU(),
        )
        self.position = nn.Parameter(torch.zeros(1, GRID * GRID, channels))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                channels, heads, 2 * channels, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(channels)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, n, c]."""
        x = self.mix(self.stages(pixels)).flatten(2).transpose(1, 2)  # [b, n, c]
        x = x + self.position
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.norm(x)
        return out
