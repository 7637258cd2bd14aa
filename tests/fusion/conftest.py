"""Small adapters with weights that are all at work, and features to feed them.

Notation for tensor shapes:
    b: samples, n: tokens of the base grid, c: width, t: text width
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from mova_core.experts.features import ExpertFeatures, RoutedFeatures
from mova_core.fusion.adapter import MovAdapter
from mova_core.fusion.packs import ExpertPack

WIDTH, HEADS, DEPTH, TEXT, OUT = 16, 2, 2, 6, 10
EXPERTS: Mapping[str, tuple[int, tuple[int, int]]] = {
    "alpha": (4, (4, 4)),
    "beta": (6, (3, 5)),
    "gamma": (4, (2, 2)),
    "delta-2": (8, (6, 6)),
    "9-epsilon": (5, (4, 4)),
}
"""Channels and grid of the experts' features, by id."""


def stir(module: nn.Module, seed: int) -> nn.Module:
    """Give every parameter, zero-started ones too, values that depend on its name and the seed only."""
    for name, parameter in module.named_parameters():
        generator = torch.Generator().manual_seed(hash_of(name) + seed)
        scale = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        nn.init.normal_(parameter, mean=scale, std=0.3, generator=generator)
    return module


def hash_of(text: str) -> int:
    """A hash that is the same in every process."""
    return sum((position + 1) * byte for position, byte in enumerate(text.encode()))


@dataclass(frozen=True)
class Lab:
    """What the tests build their cases with."""

    ids: tuple[str, ...] = tuple(EXPERTS)

    def pack(self, id: str, *, trained: bool = True) -> ExpertPack:
        """The pack of an expert: the same weights each time."""
        pack = ExpertPack(width=WIDTH, channels=EXPERTS[id][0], heads=HEADS, depth=DEPTH)
        if trained:
            stir(pack, hash_of(id))
        return pack

    def adapter(
        self, ids: Iterable[str] = tuple(EXPERTS), *, grid: tuple[int, int] = (4, 4), trained: bool = True
    ) -> MovAdapter:
        """An adapter with packs, added in the order of the ids; the core has the same weights each time."""
        adapter = MovAdapter(width=WIDTH, heads=HEADS, grid=grid, text_dim=TEXT, out_dim=OUT, depth=DEPTH)
        stir(adapter, 7)
        for id in ids:
            adapter.add_pack(id, self.pack(id, trained=trained))
        return adapter

    def inputs(self, batch: int, *, grid: tuple[int, int] = (4, 4), seed: int = 0) -> tuple[Tensor, Tensor]:
        """Base tokens [b, n, c] and a text feature [b, t]; a sample's are the same at any batch size."""
        generator = torch.Generator().manual_seed(seed)
        base, text = [], []
        for _ in range(batch):
            base.append(torch.randn(grid[0] * grid[1], WIDTH, generator=generator))
            text.append(torch.randn(TEXT, generator=generator))
        return torch.stack(base), torch.stack(text)

    def features(
        self, routes: Sequence[Iterable[str]], *, seed: int = 0, samples: Sequence[int] | None = None
    ) -> dict[str, RoutedFeatures]:
        """What a pool gives for the routes of a batch; sample numbers tell the samples' contents apart."""
        samples = range(len(routes)) if samples is None else samples
        found: dict[str, RoutedFeatures] = {}
        for id in sorted({id for route in routes for id in route}):
            channels, (h, w) = EXPERTS[id]
            rows = tuple(row for row, route in enumerate(routes) if id in route)
            tokens = [
                torch.randn(
                    h * w,
                    channels,
                    generator=torch.Generator().manual_seed(seed + 97 * samples[row] + hash_of(id)),
                )
                for row in rows
            ]
            found[id] = RoutedFeatures(ExpertFeatures(torch.stack(tokens), (h, w)), rows)
        return found


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab()
