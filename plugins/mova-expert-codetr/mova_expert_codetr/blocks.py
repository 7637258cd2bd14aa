"""The transformer block of EVA-02 (arXiv 2303.11331), with attention inside windows (arXiv 2203.16527).

Notation for tensor shapes:
    b: pictures or windows, h, w: rows and columns, n: cells (h * w), c: width, a: heads, d: dimensions of one
        head
"""

from __future__ import annotations

from functools import partial
from typing import Final

from timm.layers.mlp import SwiGLU
from torch import Tensor, nn, unflatten
from torch.nn import functional as F

from mova_core.errors import ConfigError
from mova_core.fusion.rotary import rotate
from mova_expert_codetr.rotary import stretched_rotary
from mova_expert_codetr.windows import cut, join

EPS: Final = 1e-6
_MLP_RATIO: Final = 4 * 2 / 3
"""A gated network of this ratio has as many parameters as a plain one of ratio 4."""


class Attention(nn.Module):
    """Multi-head self-attention over a grid, with rotary queries and keys; keys have no bias.

    Args:
        width: c.
        heads: a.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % (4 * heads):
            raise ConfigError(
                "the width does not split into heads that rotary positions can turn",
                value=f"width {width}, heads {heads}",
                expected="a width that is a multiple of 4 * heads",
            )
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[b, h, w, c] -> [b, h, w, c]."""
        grid = (x.shape[1], x.shape[2])
        q, k, v = (self._split(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        rotary = stretched_rotary(grid, q.shape[-1], x.device)
        y = F.scaled_dot_product_attention(rotate(q, rotary), rotate(k, rotary), v)  # [b, a, n, d]
        out: Tensor = self.proj(unflatten(y.transpose(1, 2).flatten(2), 1, grid))  # [b, h, w, c]
        return out

    def _split(self, x: Tensor) -> Tensor:
        """[b, h, w, c] -> [b, a, n, d]."""
        return unflatten(x.flatten(1, 2), 2, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention, then a gated feed-forward network with a norm inside; both pre-norm and residual.

    Args:
        width: c.
        heads: a.
        window: side of the windows that attention stays in; None lets it see the whole grid.
    """

    def __init__(self, width: int, heads: int, window: int | None = None) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        inner_norm = partial(nn.LayerNorm, eps=EPS)
        self.mlp = SwiGLU(width, int(width * _MLP_RATIO), norm_layer=inner_norm)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[b, h, w, c] -> [b, h, w, c]."""
        x = x + self._attend(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def _attend(self, x: Tensor) -> Tensor:
        if self.window is None:
            out: Tensor = self.attn(x)
            return out
        return join(self.attn(cut(x, self.window)), (x.shape[1], x.shape[2]))
