"""Tiny experts that count what they are asked."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mova_core.cards.card import ExpertCard
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.protocol import VisionExpert

CHANNELS, GRID = 4, (2, 3)

STREAM: dict[str, Any] = {
    "size": (12, 18),
    "fit": "stretch",
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}


class CountingExpert(VisionExpert):
    """Averages each cell of its grid and projects the colour; remembers the size of every batch it met."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(CHANNELS, 3, generator=generator))
        self.batches: list[int] = []
        self.prepared: list[int] = []

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> CountingExpert:
        return cls(zlib.crc32(source.encode())).to(device=device, dtype=dtype)

    @classmethod
    def from_config(cls, **tiny: object) -> CountingExpert:
        return cls(int(str(tiny.get("seed", 0))))

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        self.prepared.append(len(images))
        return super().preprocess(images)

    def forward(self, stream: Tensor) -> ExpertFeatures:
        self.batches.append(len(stream))
        cells = nn.functional.adaptive_avg_pool2d(stream, GRID).flatten(2).mT  # [b, n, 3]
        return ExpertFeatures(cells @ self.weight.T, GRID)  # [b, n, c]


class Workshop:
    """A loader that keeps every expert it has built."""

    def __init__(self, build: Callable[[str], VisionExpert]) -> None:
        self.build = build
        self.built: list[str] = []
        self.experts: dict[str, Any] = {}

    def __call__(self, card: ExpertCard) -> VisionExpert:
        self.built.append(card.id)
        expert = self.experts[card.id] = self.build(card.id)
        return expert


@pytest.fixture(scope="session")
def counting_expert() -> type[CountingExpert]:
    return CountingExpert


@pytest.fixture(scope="session")
def make_card() -> Callable[..., ExpertCard]:
    def make(id: str, **changes: Any) -> ExpertCard:
        fields: dict[str, Any] = {
            "id": id,
            "role": "expert",
            "title": "A test expert",
            "descriptions": ("sees what tests show",),
            "factory": "nowhere:Expert",
            "parameters": 12,
            "code_licence": "Apache-2.0",
            "input": STREAM,
            "features": {"channels": CHANNELS, "grid": GRID},
            "memory_mb": {"float32": 48 / 2**20},
            "weights": {"sources": (), "revision": "r1", "licence": "Apache-2.0"},
        }
        return ExpertCard.model_validate(fields | changes)

    return make


@pytest.fixture(scope="session")
def make_workshop() -> Callable[..., Workshop]:
    def make(build: Callable[[str], VisionExpert] | None = None) -> Workshop:
        return Workshop(build or (lambda id: CountingExpert(zlib.crc32(id.encode()))))

    return make


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Six small pictures, all different, of different sizes."""
    generator = torch.Generator().manual_seed(7)
    sizes = [(9, 7), (30, 20), (12, 18), (5, 40), (16, 16), (21, 8)]
    return [
        Image.fromarray(torch.randint(0, 256, (h, w, 3), generator=generator, dtype=torch.uint8).numpy())
        for w, h in sizes
    ]
