"""Heat maps: where an expert was read, laid over the picture.

Notation for tensor shapes:
    l: blocks of the adapter, h, w: sides of the base grid
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from mova_core.model.answer import ImageTrace
from mova_core.model.explain import heat_map, write_heat_maps
from mova_core.routing.route import Route


def attention_at(row: int, column: int, side: int = 4) -> Tensor:
    """All attention of two blocks on one cell, [l, h, w]."""
    found = torch.zeros(2, side, side)
    found[:, row, column] = 1
    return found


def warmth(image: Image.Image) -> np.ndarray:
    """How much redder than blue each pixel is, [height, width]."""
    pixels = np.asarray(image, dtype=np.float32)
    return pixels[..., 0] - pixels[..., 2]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 70), st.integers(1, 70), st.booleans(), st.integers(0, 9))
def test_it_keeps_the_size_of_any_picture(width: int, height: int, padded: bool, seed: int) -> None:
    attention = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(seed))
    shown = heat_map(Image.new("RGB", (width, height), "grey"), attention, padded=padded)
    assert shown.size == (width, height) and shown.mode == "RGB"


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 3), (3, 2)])
def test_it_is_warm_where_the_expert_was_read(row: int, column: int, padded: bool) -> None:
    shown = warmth(heat_map(Image.new("RGB", (80, 80), "grey"), attention_at(row, column), padded=padded))
    cells = shown.reshape(4, 20, 4, 20).mean((1, 3))
    assert np.unravel_index(cells.argmax(), cells.shape) == (row, column)


def test_the_grid_of_a_padded_picture_covers_more_than_the_picture() -> None:
    wide = Image.new("RGB", (80, 40), "grey")  # rows 0 and 3 of the grid lie in the padding
    outside, inside = (warmth(heat_map(wide, attention_at(row, 1))).mean() for row in (0, 1))
    assert outside < inside
    shown = warmth(heat_map(wide, attention_at(1, 2)))
    cells = shown.reshape(2, 20, 4, 20).mean((1, 3))
    assert np.unravel_index(cells.argmax(), cells.shape) == (0, 2)


def test_even_attention_is_shown_evenly() -> None:
    shown = np.asarray(heat_map(Image.new("RGB", (20, 30), "grey"), torch.full((2, 4, 4), 1 / 16)))
    assert (shown == shown[0, 0]).all()


def test_there_is_one_file_for_each_expert(tmp_path: Path) -> None:
    attention = {"tiny-red": attention_at(0, 0), "tiny-blue": attention_at(3, 3)}
    trace = ImageTrace(Route(tuple(attention)), {}, attention)
    written = write_heat_maps(trace, Image.new("RGB", (30, 20), "grey"), tmp_path / "new" / "folder")
    assert [path.name for path in written] == ["tiny-red.png", "tiny-blue.png"]
    assert [Image.open(path).size for path in written] == [(30, 20)] * 2
    assert written[0].read_bytes() != written[1].read_bytes()
