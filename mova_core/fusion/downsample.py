"""To half the side of the grid: RegNet block, average pooling, RegNet block (paper, section 3.3).

The block is RegNet's bottleneck (arXiv 2003.13678) with squeeze-and-excitation, layer norms in place of batch
norms, depthwise 3x3 convolution, and no activation after the sum.

Notation for tensor shapes:
    b: samples, c: width, h, w: sides of the grid, n: tokens (h * w)
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mova_core.fusion.grids import Grid, as_picture, as_tokens, half


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a picture."""

    def forward(self, input: Tensor) -> Tensor:
        """[b, c, h, w] to [b, c, h, w]."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SqueezeExcite(nn.Module):
    """Scale each channel by a factor read from the picture's mean (arXiv 1709.01507).

    Args:
        width: channels c.
        ratio: hidden channels as a share of c.
    """

    def __init__(self, width: int, ratio: float = 0.25) -> None:
        super().__init__()
        hidden = max(1, round(width * ratio))
        self.fc1 = nn.Conv2d(width, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] to [b, c, h, w]."""
        squeezed = x.mean(dim=(2, 3), keepdim=True)  # [b, c, 1, 1]
        factors: Tensor = self.fc2(F.silu(self.fc1(squeezed))).sigmoid()  # [b, c, 1, 1]
        return x * factors


class RegNetBlock(nn.Module):
    """Residual bottleneck: 1x1, depthwise 3x3, squeeze-and-excitation, 1x1.

    Args:
        width: channels c, in and out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)
        self.norm1 = ChannelNorm(width, eps=1e-5)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm2 = ChannelNorm(width, eps=1e-5)
        self.se = SqueezeExcite(width)
        self.conv3 = nn.Conv2d(width, width, 1, bias=False)
        self.norm3 = ChannelNorm(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] to [b, c, h, w]."""
        y: Tensor = F.silu(self.norm1(self.conv1(x)))
        y = self.se(F.silu(self.norm2(self.conv2(y))))
        y = self.norm3(self.conv3(y))
        return x + y


class Downsample(nn.Module):
    """Halve the side of the token grid.

    Args:
        width: channels c.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = RegNetBlock(width)
        self.after = RegNetBlock(width)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """[b, n, c] on a grid to [b, m, c] on the grid of half its side, rounded down."""
        picture = self.before(as_picture(x, grid))  # [b, c, h, w]
        pooled = F.adaptive_avg_pool2d(picture, half(grid))  # [b, c, h / 2, w / 2]
        return as_tokens(self.after(pooled))
