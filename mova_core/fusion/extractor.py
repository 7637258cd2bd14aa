"""How one expert's features enter the base tokens (paper, section 3.3, expert knowledge extractor).

Notation for tensor shapes:
    m: samples that chose the expert, n: tokens of the base grid, c: width, f: the expert's channels
"""

from __future__ import annotations

from torch import Tensor, nn

from mova_core.fusion.attention import Attention
from mova_core.fusion.rotary import Rotary


class Extractor(nn.Module):
    """Cross-attention of the base tokens over one expert's features, both normed first.

    Args:
        width: width c of the base tokens.
        channels: channels f of the expert's features.
        heads: attention heads.
    """

    def __init__(self, width: int, channels: int, heads: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=1e-5)
        self.feature_norm = nn.LayerNorm(channels, eps=1e-5)
        self.attention = Attention(width, heads, context_width=channels)

    def forward(self, x: Tensor, features: Tensor, rotary: Rotary) -> Tensor:
        """What the expert has to add to each token.

        Args:
            x: [m, n, c].
            features: [m, n, f], already on the base grid.
            rotary: tables of the base grid.

        Returns:
            [m, n, c].
        """
        found: Tensor = self.attention(self.query_norm(x), self.feature_norm(features), rotary)  # [m, n, c]
        return found

    def attention_map(self, x: Tensor, features: Tensor, rotary: Rotary) -> Tensor:
        """Where the tokens look, averaged over heads and queries: [m, n], each row sums to 1."""
        return self.attention.attention_map(self.query_norm(x), self.feature_norm(features), rotary)
