"""The dynamic gate: how much each chosen expert counts (paper, section 3.3).

The trunk is shared by all experts and belongs to the core; each expert's row and bias belong to its pack.

Notation for tensor shapes:
    b: samples, n: tokens of the base grid, c: width, t: text width, k: experts chosen by at least one sample
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GateTrunk(nn.Module):
    """From the question and the image to the hidden state that every expert's gate row reads.

    Args:
        width: width c of the base tokens and of the hidden state.
        text_dim: width t of the text feature.
    """

    def __init__(self, width: int, text_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(text_dim + width, width)
        self.activation = nn.GELU()

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """x [b, n, c] and text [b, t] to [b, c]."""
        hidden: Tensor = self.activation(self.linear(torch.cat([text, x.mean(dim=1)], dim=-1)))  # [b, c]
        return hidden


def gate_weights(logits: Tensor, chosen: Tensor, most: int) -> Tensor:
    """Share a total weight of one among the experts that a sample chose.

    Softmax in float32 over a sample's own experts, all but its `most` heaviest dropped, the rest scaled to
    sum to one again. Of equal weights the earlier column stays, so the outcome never depends on what else is
    in the batch.

    Args:
        logits: [b, k].
        chosen: [b, k], true where the sample chose the expert.
        most: experts kept for one sample.

    Returns:
        [b, k] in float32; all zero for a sample that chose nothing.
    """
    # A finite floor: minus infinity would give nan in the rows that chose nothing.
    floor = torch.finfo(torch.float32).min
    weights = logits.float().masked_fill(~chosen, floor).softmax(dim=-1) * chosen
    if weights.shape[1] > most:
        kept = weights.argsort(dim=-1, descending=True, stable=True)[:, :most]
        weights = weights * torch.zeros_like(weights).scatter(-1, kept, 1.0)
    return weights / weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
