"""The plain reference computes what the adapter computes: a comparison of their speed is fair."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.models import base_tokens, build_adapter, mask
from benchmarks.reference import PlainAdapter
from benchmarks.sizes import Sizes
from mova_core.experts.features import ExpertFeatures, RoutedFeatures
from mova_core.fusion import attention, block

TINY = Sizes(
    width=16,
    heads=2,
    grid=(4, 6),
    depth=2,
    out=12,
    experts={"gamma": (5, (3, 3)), "alpha": (8, (4, 6)), "beta": (4, (8, 2)), "delta": (6, (2, 2))},
)
IDS = tuple(TINY.experts)
ROUTES = st.lists(st.sets(st.sampled_from(IDS)), min_size=1, max_size=4)


def given_features(samples: int) -> dict[str, torch.Tensor]:
    return {id: torch.randn(samples, h * w, channels) for id, (channels, (h, w)) in TINY.experts.items()}


def both(routes: list[set[str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of the adapter and of the reference, for the same weights and inputs."""
    torch.manual_seed(len(routes))
    adapter, base = build_adapter(TINY), base_tokens(TINY, len(routes))
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    text, every = torch.randn(len(routes), TINY.width), given_features(len(routes))
    rows = {id: tuple(row for row, route in enumerate(routes) if id in route) for id in IDS}
    own = {
        id: RoutedFeatures(ExpertFeatures(every[id][list(chosen)], TINY.experts[id][1]), chosen)
        for id, chosen in rows.items()
        if chosen
    }
    positioned = [
        (every[id], TINY.experts[id][1]) if len(routes) > 1 or id in routes[0] else None for id in IDS
    ]
    plain = PlainAdapter(adapter, IDS)
    with torch.inference_mode():
        return adapter(base, own, text).tokens, plain(base, positioned, mask(TINY, routes), text)


@settings(max_examples=30, deadline=None)
@given(routes=ROUTES)
def test_it_equals_the_adapter_whatever_the_routes(routes):
    own, plain = both(routes)
    torch.testing.assert_close(own, plain, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("size", [1, 20, 50])
def test_it_equals_the_adapter_that_works_in_pieces(monkeypatch, size):
    monkeypatch.setattr(block, "PIECE", size)
    monkeypatch.setattr(block, "MANY", size)
    monkeypatch.setattr(attention, "TOKENS", size)
    own, plain = both([set(islice(IDS, number, 3)) for number in range(4)])
    torch.testing.assert_close(own, plain, atol=2e-5, rtol=2e-5)
