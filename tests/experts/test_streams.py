from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mova_core.cards.stream import InputStream
from mova_core.errors import ConfigError
from mova_core.experts.streams import stream_tensor

RAW: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "nearest"}


def _stream(**changes: Any) -> InputStream:
    return InputStream.model_validate({"size": (4, 4), "fit": "stretch"} | RAW | changes)


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    """[h, w, 3] in 0..255 of the first picture."""
    return (tensor[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _columns(width: int, height: int) -> Image.Image:
    """A picture whose red channel is the column and whose green channel is the row."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))


def test_normalisation_is_by_channel() -> None:
    stream = _stream(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    tensor = stream_tensor([Image.new("RGB", (9, 5), (0, 51, 255))], stream)
    assert (tensor.shape, tensor.dtype) == ((1, 3, 4, 4), torch.float32)
    assert tensor.is_contiguous()
    torch.testing.assert_close(tensor[0, :, 2, 1], torch.tensor([-0.2, 0.0, 0.35]))


def test_scale_one_keeps_bytes() -> None:
    tensor = stream_tensor([_columns(4, 4)], _stream(scale=1.0))
    assert tensor[0, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_stretch_is_the_resize_of_that_filter(name: str) -> None:
    picture = _columns(50, 31)
    expected = picture.resize((8, 6), Image.Resampling[name.upper()])
    tensor = stream_tensor([picture], _stream(size=(6, 8), interpolation=name))
    assert np.array_equal(_bytes(tensor), np.asarray(expected))


@pytest.mark.parametrize(("size", "left", "top"), [((5, 2), 0, 1), ((2, 5), 1, 0), ((5, 5), 0, 0)])
def test_pad_centres_by_floor_division(size: tuple[int, int], left: int, top: int) -> None:
    picture = Image.new("RGB", size, (9, 9, 9))
    pixels = _bytes(stream_tensor([picture], _stream(size=(5, 5), fit="pad", pad_colour=(122, 116, 104))))
    expected = np.full((5, 5, 3), (122, 116, 104), np.uint8)
    expected[top : top + size[1], left : left + size[0]] = 9
    assert np.array_equal(pixels, expected)


def test_crop_takes_the_centre_of_the_covering_resize() -> None:
    pixels = _bytes(stream_tensor([_columns(9, 4)], _stream(fit="crop")))
    assert pixels[0, :, 0].tolist() == [2, 3, 4, 5]  # (9 - 4) // 2
    assert pixels[:, 0, 1].tolist() == [0, 1, 2, 3]
    half = _bytes(stream_tensor([_columns(8, 16)], _stream(fit="crop", crop_ratio=0.5)))
    assert half[0, :, 0].tolist() == [2, 3, 4, 5]
    assert half[:, 0, 1].tolist() == [6, 7, 8, 9]


def test_crop_resizes_the_whole_picture_first() -> None:
    rng = np.random.default_rng(3)
    picture = Image.fromarray(rng.integers(0, 256, (43, 64, 3), dtype=np.uint8))
    expected = picture.resize((64 * 16 // 43, 16), Image.Resampling.BICUBIC).crop((4, 1, 18, 15))
    stream = _stream(size=(14, 14), fit="crop", crop_ratio=0.875, interpolation="bicubic")
    assert np.array_equal(_bytes(stream_tensor([picture], stream)), np.asarray(expected))


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(400_000, 1), (1, 400_000), (1, 1)])
def test_extreme_shapes_stay_within_memory(fit: str, size: tuple[int, int]) -> None:
    stream = _stream(fit=fit, pad_colour=(0, 0, 0) if fit == "pad" else None, interpolation="bicubic")
    tensor = stream_tensor([Image.new("RGB", size, (255, 255, 255))], stream)
    assert tensor.shape == (1, 3, 4, 4)
    if fit != "pad":  # a strip one pixel wide may vanish on its square
        assert torch.equal(tensor, torch.ones_like(tensor))


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    st.sampled_from(["stretch", "pad", "crop"]),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.floats(0.3, 1.0),
)
def test_a_batch_is_its_pictures_one_by_one(
    sizes: list[tuple[int, int]], fit: str, size: tuple[int, int], ratio: float
) -> None:
    extras: dict[str, dict[str, Any]] = {"pad": {"pad_colour": (1, 2, 3)}, "crop": {"crop_ratio": ratio}}
    stream = _stream(fit=fit, size=size, interpolation="bilinear", **extras.get(fit, {}))
    pictures = [_columns(*size) for size in sizes]
    batch = stream_tensor(pictures, stream)
    assert batch.shape == (len(sizes), 3, *size)
    assert torch.equal(batch, torch.cat([stream_tensor([picture], stream) for picture in pictures]))


def test_no_pictures_give_no_rows() -> None:
    assert stream_tensor([], _stream()).shape == (0, 3, 4, 4)


def test_patches_have_no_pixel_tensor() -> None:
    patches = InputStream(kind="patches", fit="keep", patches=9, patch_size=16)
    with pytest.raises(ConfigError, match="kind 'patches'"):
        stream_tensor([_columns(4, 4)], patches)
