"""What one expert brings to the adapter: everything in it that is the expert's own.

Notation for tensor shapes:
    b: samples, c: width
"""

from __future__ import annotations

from typing import cast

from torch import nn

from mova_core.fusion.extractor import Extractor


class PackLayer(nn.Module):
    """An expert's part of one block.

    The gate row starts at zero: a new expert's logit is then neither above nor below that of another new one.

    Args:
        width: width of the base tokens and of the gate's hidden state.
        channels: channels of the expert's features.
        heads: heads of the cross-attention.
    """

    def __init__(self, width: int, channels: int, heads: int) -> None:
        super().__init__()
        self.extractor = Extractor(width, channels, heads)
        self.gate = nn.Linear(width, 1)  # [b, c] to the expert's logit [b, 1]
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)


class ExpertPack(nn.Module):
    """One expert's adapter weights: for each block its cross-attention, two norms, gate row and bias.

    A new pack changes nothing where its expert is chosen alone, because its output projections start at zero.

    Args:
        width: width of the base tokens.
        channels: channels of the expert's features.
        heads: heads of the cross-attention, the same as the adapter's.
        depth: blocks of the adapter.
    """

    def __init__(self, *, width: int, channels: int, heads: int, depth: int = 3) -> None:
        super().__init__()
        self.width = width
        self.channels = channels
        self.heads = heads
        self.depth = depth
        self.layers = nn.ModuleList([PackLayer(width, channels, heads) for _ in range(depth)])

    def layer(self, block: int) -> PackLayer:
        """The pack's part of a block, counted from 0."""
        return cast(PackLayer, self.layers[block])
