"""One block of the MoV-Adapter: experts in, then self-attention, then feed-forward (paper, section 3.3).

Notation for tensor shapes:
    b: samples, n: tokens of the base grid, c: width, t: text width, k: experts chosen by at least one sample,
    m: samples that chose one expert
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mova_core.fusion.attention import Attention, zero_started
from mova_core.fusion.chosen import Chosen
from mova_core.fusion.gate import GateTrunk, gate_weights
from mova_core.fusion.packs import PackLayer
from mova_core.fusion.rotary import Rotary

Weights: TypeAlias = tuple[Tensor, Tensor]
"""Weight and bias of a linear layer."""

PIECE = 1536
"""On a CPU the most tokens in one piece of the feed-forward layer: bounds the memory of its hidden states."""

ROW = 32
"""Hidden states have rows of a multiple of this many numbers, whole cache lines, where that pays."""

MANY = 512
"""Tokens from which on it pays: the layer's weights are copied for it."""


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202) with a norm on the hidden state; the last layer starts at zero.

    Args:
        width: width c, in and out.
        ratio: hidden width as a multiple of c, rounded down.
    """

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.gate = nn.Linear(width, hidden)
        self.up = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-5)
        self.down = zero_started(nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """[b, n, c] to [b, n, c]."""
        tokens = x.flatten(0, -2)  # [b * n, c]
        spare = -self.gate.out_features % ROW if len(tokens) >= MANY else 0
        gate, up = _with_spare_rows(self.gate, spare), _with_spare_rows(self.up, spare)
        whole = torch.compiler.is_compiling() or x.device.type != "cpu"
        pieces = 1 if whole else -(-len(tokens) // PIECE)
        done = [self._piece(piece, gate, up) for piece in tokens.chunk(pieces)]
        return (done[0] if len(done) == 1 else torch.cat(done)).view_as(x)  # [b, n, c]

    def _piece(self, x: Tensor, gate: Weights, up: Weights) -> Tensor:
        hidden = F.silu(F.linear(x, *gate)) * F.linear(x, *up)
        out: Tensor = self.down(self.norm(hidden[..., : self.down.in_features]))
        return out


def _with_spare_rows(layer: nn.Linear, rows: int) -> Weights:
    """Weight and bias of a layer with rows of zeros below: its outputs become so much wider.

    A matrix product whose rows are no whole cache lines took 1.4 times as long on an AVX2 CPU.
    """
    if not rows:
        return layer.weight, layer.bias
    return F.pad(layer.weight, (0, 0, 0, rows)), F.pad(layer.bias, (0, rows))


class MovBlock(nn.Module):
    """The core's part of a block; the experts' part, a `PackLayer` each, is handed in.

    Args:
        width: width c of the base tokens.
        heads: heads of the self-attention.
        text_dim: width t of the text feature.
        ffn_ratio: hidden width of the feed-forward layer as a multiple of c.
        max_experts: experts that may count for one sample.
    """

    def __init__(self, *, width: int, heads: int, text_dim: int, ffn_ratio: float, max_experts: int) -> None:
        super().__init__()
        self.max_experts = max_experts
        self.gate = GateTrunk(width, text_dim)
        self.attention_norm = nn.LayerNorm(width, eps=1e-5)
        self.attention = Attention(width, heads)
        self.ffn_norm = nn.LayerNorm(width, eps=1e-5)
        self.ffn = FeedForward(width, ffn_ratio)

    def forward(
        self, x: Tensor, text: Tensor, chosen: Chosen, layers: Sequence[PackLayer], rotary: Rotary
    ) -> tuple[Tensor, Tensor]:
        """Run the block.

        Args:
            x: [b, n, c].
            text: [b, t].
            chosen: the experts, their features and the samples that chose them.
            layers: for each of these experts, its layer for this block.
            rotary: tables of the base grid.

        Returns:
            ([b, n, c], gate weights [b, k] in float32).
        """
        weights = self.weigh(x, text, chosen, layers)  # [b, k]
        x = fuse(x, weights, chosen, layers, rotary)
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed, rotary)
        return x + self.ffn(self.ffn_norm(x)), weights

    def weigh(self, x: Tensor, text: Tensor, chosen: Chosen, layers: Sequence[PackLayer]) -> Tensor:
        """Gate weights [b, k]; no gate row but those of the chosen experts is read."""
        if not layers:
            return x.new_zeros(x.shape[0], 0, dtype=torch.float32)
        hidden = self.gate(x, text)  # [b, c]
        logits = torch.cat([layer.gate(hidden) for layer in layers], dim=-1)  # [b, k]
        return gate_weights(logits, chosen.mask, self.max_experts)


def fuse(x: Tensor, weights: Tensor, chosen: Chosen, layers: Sequence[PackLayer], rotary: Rotary) -> Tensor:
    """Add to each sample what its own experts extract, weighted, one after the other in the order of ids.

    Args:
        x: [b, n, c].
        weights: [b, k].
        chosen: the k experts.
        layers: their layers for this block.
        rotary: tables of the base grid.

    Returns:
        [b, n, c].
    """
    fused = x.clone() if chosen.experts else x  # every expert reads the tokens as they came
    for expert, layer, weight in zip(chosen.experts, layers, weights.unbind(dim=1), strict=True):
        found = layer.extractor(expert.rows_of(x), expert.features, rotary)  # [m, n, c]
        share = expert.rows_of(weight)[:, None, None].to(x.dtype)  # [m, 1, 1]
        expert.add_to(fused, (share * found).to(x.dtype))
    return fused
