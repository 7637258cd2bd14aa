"""The MoV-Adapter written straight from the method, as the yardstick of the benchmarks (paper, section 3.3).

It computes what `MovAdapter` computes, from the same weights, in the plainest way: explicit softmax attention
and rotary positions by the formula. Experts are positions, as in the release: a sample alone runs its chosen
experts, a batch runs all of them, and weighs with zero those that a sample did not choose. Of
`mova_core.fusion` nothing but the weights is used.

Notation for tensor shapes:
    b: samples, n: tokens of the base grid (h * w, row-major), c: width, e: experts, f: channels of an expert,
    a: attention heads, d: dimensions of one head, t: text width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

THETA = 10_000.0
UNCHOSEN = -1e6
"""Added to the gate logits of experts that a sample did not choose."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Rotary tables.

    Args:
        cos: [n, d], every angle twice.
        sin: [n, d].
    """

    cos: Tensor
    sin: Tensor


def tables(grid: tuple[int, int], head_dim: int) -> Tables:
    """The rotary tables of a grid: rows turn the first half of a head, columns the second."""
    h, w = grid
    exponents = torch.arange(0, head_dim // 2, 2).float() / (head_dim // 2)
    frequencies = 1.0 / THETA**exponents  # [d / 4]
    rows = (torch.arange(h).float()[:, None] * frequencies).repeat_interleave(2, dim=-1)  # [h, d / 2]
    columns = (torch.arange(w).float()[:, None] * frequencies).repeat_interleave(2, dim=-1)  # [w, d / 2]
    angles = torch.cat([rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)], dim=-1).flatten(
        0, 1
    )  # [n, d]
    return Tables(angles.cos(), angles.sin())


class PlainAdapter:
    """The adapter of the method over the weights of a `MovAdapter`.

    Args:
        weights: the adapter whose weights are used.
        order: ids of all its experts, in the order of their positions.
        most: experts kept for one sample.
    """

    def __init__(self, weights: Any, order: Sequence[str], *, most: int = 3) -> None:
        self.weights = weights
        self.order = tuple(order)
        self.most = most
        self.tables = tables(weights.grid, weights.width // weights.heads)

    def __call__(
        self,
        base: Tensor,
        features: Sequence[tuple[Tensor, tuple[int, int]] | None],
        mask: Tensor,
        text: Tensor,
    ) -> Tensor:
        """Fuse.

        Args:
            base: [b, n, c].
            features: for each position the tokens [b, h * w, f] of all samples and their grid; None for an
                expert that was not run.
            mask: [b, e], one where the sample chose the expert.
            text: [b, t].

        Returns:
            The tokens for the language model.
        """
        maps = [None if given is None else self.resized(*given) for given in features]
        x = base + self.weights.position
        for number, block in enumerate(self.weights.blocks):
            layers = [self.weights.packs[id].layers[number] for id in self.order]
            x = self._block(block, layers, x, maps, mask, text)
        x = (x + base) / 2
        h, w = self.weights.grid
        picture = torch.unflatten(x.transpose(1, 2), 2, (h, w))  # [b, c, h, w]
        picture = regnet(self.weights.downsample.before, picture)
        picture = F.adaptive_avg_pool2d(picture, (max(1, h // 2), max(1, w // 2)))
        picture = regnet(self.weights.downsample.after, picture)
        tokens: Tensor = self.weights.projector(picture.flatten(2).transpose(1, 2))
        return tokens

    def resized(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        picture = torch.unflatten(tokens.transpose(1, 2), 2, grid).float()  # [b, f, h, w]
        resized = F.interpolate(picture, size=self.weights.grid, mode="bilinear", align_corners=False)
        return resized.flatten(2).transpose(1, 2).to(tokens.dtype)  # [b, n, f]

    def _block(
        self,
        block: Any,
        layers: Sequence[Any],
        x: Tensor,
        maps: Sequence[Tensor | None],
        mask: Tensor,
        text: Tensor,
    ) -> Tensor:
        hidden = block.gate.activation(block.gate.linear(torch.cat([text, x.mean(dim=1)], dim=-1)))  # [b, c]
        logits = torch.cat([layer.gate(hidden) for layer in layers], dim=-1)  # [b, e]
        weights = gate(logits, mask, self.most).to(x.dtype)  # [b, e]
        found = torch.zeros_like(x)
        for layer, features, weight in zip(layers, maps, weights.unbind(dim=1), strict=True):
            if features is not None:
                part = layer.extractor
                y = attend(part.attention, part.query_norm(x), part.feature_norm(features), self.tables)
                found = found + weight[:, None, None] * y
        x = x + found
        normed = block.attention_norm(x)
        x = x + attend(block.attention, normed, normed, self.tables)
        ffn, normed = block.ffn, block.ffn_norm(x)
        fed: Tensor = ffn.down(ffn.norm(F.silu(ffn.gate(normed)) * ffn.up(normed)))
        return x + fed


def gate(logits: Tensor, mask: Tensor, most: int) -> Tensor:
    """Weights [b, e] in float32: softmax over the chosen, the heaviest kept, renormalised; zero if none."""
    weights = (logits.float() + (1 - mask) * UNCHOSEN).softmax(dim=-1) * mask
    best = weights.topk(min(most, weights.shape[1]), dim=-1).indices
    weights = weights * torch.zeros_like(weights).scatter(-1, best, 1.0)
    total = weights.sum(dim=-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)


def attend(layer: Any, x: Tensor, context: Tensor, at: Tables) -> Tensor:
    """Explicit softmax attention, [b, n, c] from queries [b, n, c] and a context [b, n, f]."""
    q, k, v = (
        projection(tokens).unflatten(-1, (layer.heads, -1)).permute(0, 2, 1, 3)  # [b, a, n, d]
        for projection, tokens in ((layer.q_proj, x), (layer.k_proj, context), (layer.v_proj, context))
    )
    q, k = turn(q, at), turn(k, at)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # [b, a, n, n]
    y = scores.softmax(dim=-1) @ v  # [b, a, n, d]
    out: Tensor = layer.proj(layer.norm(y.transpose(1, 2).flatten(2)))
    return out


def turn(x: Tensor, at: Tables) -> Tensor:
    """Rotary positions: x * cos + half-turned x * sin, in float32."""
    pairs = torch.unflatten(x, -1, (-1, 2))  # [b, a, n, d / 2, 2]
    half_turned = torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2)  # [b, a, n, d]
    return (x * at.cos + half_turned * at.sin).to(x.dtype)


def regnet(block: Any, x: Tensor) -> Tensor:
    """Residual bottleneck with squeeze-and-excitation, [b, c, h, w] to the same."""
    y = F.silu(channel_norm(block.norm1, block.conv1(x)))
    y = F.silu(channel_norm(block.norm2, block.conv2(y)))
    squeezed = y.mean(dim=(2, 3), keepdim=True)  # [b, c, 1, 1]
    y = y * torch.sigmoid(block.se.fc2(F.silu(block.se.fc1(squeezed))))
    return x + channel_norm(block.norm3, block.conv3(y))


def channel_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer norm over the channels of a picture [b, c, h, w]."""
    turned = x.permute(0, 2, 3, 1)
    normed = F.layer_norm(turned, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return normed.permute(0, 3, 1, 2)
