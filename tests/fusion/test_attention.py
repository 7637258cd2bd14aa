"""Attention and its maps."""

from __future__ import annotations

import torch

from mova_core.fusion import attention
from mova_core.fusion.attention import Attention
from mova_core.fusion.rotary import rotary_tables, rotate

ROTARY = rotary_tables((2, 3), 4, torch.device("cpu"))


def case() -> tuple[Attention, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return Attention(8, heads=2, context_width=5), torch.randn(2, 6, 8), torch.randn(2, 6, 5)


def test_it_adds_nothing_before_training():
    layer, x, context = case()
    assert not layer(x, context, ROTARY).any()


def test_a_map_is_the_mean_attention_however_it_is_chunked(monkeypatch):
    layer, x, context = case()

    def heads(tokens: torch.Tensor) -> torch.Tensor:
        return rotate(tokens.view(2, 6, 2, 4).transpose(1, 2), ROTARY)

    q, k = heads(layer.q_proj(x)), heads(layer.k_proj(context))
    expected = (q @ k.transpose(-1, -2) / 2.0).softmax(-1).mean(dim=(1, 2))
    for chunk in (1, 4, 100):
        monkeypatch.setattr(attention, "MAP_CHUNK", chunk)
        found = layer.attention_map(x, context, ROTARY)
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad


def test_samples_that_attend_in_turn_find_what_they_find_together(monkeypatch):
    layer, x, context = case()
    torch.nn.init.normal_(layer.proj.weight)
    together = layer(x, context, ROTARY)
    monkeypatch.setattr(attention, "TOKENS", 6)
    torch.testing.assert_close(layer(x, context, ROTARY), together)
