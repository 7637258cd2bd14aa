"""The tiny model, loaded, and pictures to ask it about."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from mova_core.model.assistant import Mova
from mova_core.model.load import load


@pytest.fixture
def assistant(tiny: Path) -> Mova:
    """The tiny model in float32, fresh."""
    return load(tiny, dtype=torch.float32)


@pytest.fixture
def checkpoint(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint to change."""
    return Path(shutil.copytree(tiny, tmp_path / "checkpoint"))


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """Makes a picture: `picture(number)` is always the same, and unlike that of another number."""

    def make(number: int, size: tuple[int, int] = (20, 14)) -> Image.Image:
        generator = torch.Generator().manual_seed(number)
        cells = torch.randint(0, 256, (3, 3, 3), generator=generator, dtype=torch.uint8)
        return Image.fromarray(cells.numpy()).resize(size, Image.Resampling.NEAREST)

    return make
