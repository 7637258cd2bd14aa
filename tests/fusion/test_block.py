"""The feed-forward layer: the same however it is cut and padded, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mova_core.fusion import block
from mova_core.fusion.block import FeedForward


@pytest.mark.parametrize("piece, many", [(100, 100), (100, 1), (5, 100), (5, 1), (1, 1)])
def test_pieces_and_spare_rows_change_nothing(monkeypatch, piece, many):
    torch.manual_seed(0)
    layer, x = FeedForward(8, 8 / 3), torch.randn(2, 6, 8, requires_grad=True)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    expected = layer.down(layer.norm(F.silu(layer.gate(x)) * layer.up(x)))
    read = [x, *layer.parameters()]
    gradients = torch.autograd.grad(expected.square().sum(), read)

    monkeypatch.setattr(block, "PIECE", piece)
    monkeypatch.setattr(block, "MANY", many)
    found = layer(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), read), gradients)
