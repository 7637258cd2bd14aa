"""The one form of attention of the MoV-Adapter, for self- and cross-attention (paper, section 3.3).

Notation for tensor shapes:
    b: samples, n: tokens of the grid, c: width, f: channels of the context, a: heads, d: dimensions of one
        head
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mova_core.errors import ConfigError
from mova_core.fusion.rotary import Rotary, rotate

TOKENS = 4096
"""On a CPU, samples with more tokens than this attend in turn: no slower, and it bounds the memory."""

MAP_CHUNK = 256
"""Queries per step when attention maps are drawn: bounds the memory to [b, a, 256, n]."""


def zero_started(layer: nn.Linear) -> nn.Linear:
    """Set a linear layer's weight and bias to zero, so that its branch adds nothing before training."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """Multi-head attention with rotary queries and keys and a norm before the output projection.

    The output projection starts at zero.

    Args:
        width: width c of the queries and of the output.
        heads: number of heads a.
        context_width: channels f of the context; the width itself for self-attention.
    """

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        if width % (4 * heads):
            raise ConfigError(
                "the width does not split into heads that rotary positions can turn",
                value=f"width {width}, heads {heads}",
                expected="a width that is a multiple of 4 * heads",
            )
        context_width = width if context_width is None else context_width
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(context_width, width, bias=False)
        self.v_proj = nn.Linear(context_width, width, bias=False)
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.proj = zero_started(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor, rotary: Rotary) -> Tensor:
        """Let every token of x read from the context.

        Args:
            x: [b, n, c].
            context: [b, n, f] on the same grid; x itself for self-attention.
            rotary: tables of that grid.

        Returns:
            [b, n, c].
        """
        samples = max(1, TOKENS // x.shape[1])
        if torch.compiler.is_compiling() or x.device.type != "cpu" or len(x) <= samples:
            return self._attend(x, context, rotary)
        pairs = zip(torch.split(x, samples), torch.split(context, samples), strict=True)
        return torch.cat([self._attend(*pair, rotary) for pair in pairs])  # [b, n, c]

    def _attend(self, x: Tensor, context: Tensor, rotary: Rotary) -> Tensor:
        q, k = self._queries_and_keys(x, context, rotary)  # [b, a, n, d] each
        v = self._split(self.v_proj(context))  # [b, a, n, d]
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [b, n, c]
        out: Tensor = self.proj(self.norm(y))  # [b, n, c]
        return out

    @torch.no_grad()
    def attention_map(self, x: Tensor, context: Tensor, rotary: Rotary) -> Tensor:
        """How much of the attention each context token gets, averaged over heads and queries.

        Args:
            x: [b, n, c].
            context: [b, n, f] on the same grid.
            rotary: tables of that grid.

        Returns:
            [b, n] in float32; each row sums to 1.
        """
        q, k = self._queries_and_keys(x, context, rotary)  # [b, a, n, d] each
        keys = k.float().transpose(-1, -2) * q.shape[-1] ** -0.5  # [b, a, d, n]
        received = torch.zeros(k.shape[0], k.shape[2], device=k.device)  # [b, n]
        for queries in torch.split(q.float(), MAP_CHUNK, dim=2):
            received += (queries @ keys).softmax(dim=-1).sum(dim=(1, 2))
        return received / (q.shape[1] * q.shape[2])

    def _queries_and_keys(self, x: Tensor, context: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        q = rotate(self._split(self.q_proj(x)), rotary)
        k = rotate(self._split(self.k_proj(context)), rotary)
        return q, k

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)  # [b, a, n, d]
