"""From pictures to the tensor an expert reads, as its input stream says.

Notation for tensor shapes:
    b: pictures, h, w: height and width of the stream in pixels
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mova_core.cards.stream import InputStream
from mova_core.errors import ConfigError

_FILTERS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# A strip of 80,000,000x1 pixels must not become a square of that side, nor be enlarged along both sides.
# Ordinary pictures stay below both bounds, where each fit is exactly what its name says.
_MAX_SQUARE_SIDE: Final = 8_192
_MAX_CROP_ASPECT: Final = 64


def stream_tensor(images: Sequence[Image.Image], stream: InputStream) -> Tensor:
    """Prepare pictures for the experts of one input stream.

    Args:
        images: b RGB pictures of any sizes, as `load_image` gives them.
        stream: a stream of kind "pixels".

    Returns:
        [b, 3, h, w] float32 on the CPU.

    Raises:
        ConfigError: the stream is of flattened patches, which an expert cuts in a `preprocess` of its own.
    """
    if stream.kind != "pixels" or stream.size is None or stream.mean is None or stream.std is None:
        raise ConfigError(
            "this input stream has no pixel tensor",
            value=f"kind {stream.kind!r}",
            expected="kind 'pixels'",
            hint="An expert that reads patches overrides VisionExpert.preprocess.",
        )
    if not images:
        return torch.empty(0, 3, *stream.size)
    pixels = np.stack([np.asarray(_fit(image, stream, stream.size)) for image in images])  # [b, h, w, 3]
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # [b, 3, h, w]
    tensor = tensor.to(torch.float32, memory_format=torch.contiguous_format)
    mean = torch.tensor(stream.mean)[:, None, None]  # [3, 1, 1]
    std = torch.tensor(stream.std)[:, None, None]  # [3, 1, 1]
    return tensor.mul_(stream.scale).sub_(mean).div_(std)


def _fit(image: Image.Image, stream: InputStream, size: tuple[int, int]) -> Image.Image:
    filter = _FILTERS[stream.interpolation]
    if stream.fit == "crop":
        return _cover_and_crop(image, size, stream.crop_ratio, filter)
    if stream.fit == "pad" and stream.pad_colour is not None:
        image = _square(image, stream.pad_colour)
    return _resize(image, size, filter)


def _resize(image: Image.Image, size: tuple[int, int], filter: Image.Resampling) -> Image.Image:
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), filter)


def _square(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Centre a picture on a square of its longer side; odd remainders go right and below."""
    side = max(image.size)
    if side > _MAX_SQUARE_SIDE:
        shrink = _MAX_SQUARE_SIDE / side
        width, height = (max(1, round(length * shrink)) for length in image.size)
        image, side = image.resize((width, height), Image.Resampling.BOX), _MAX_SQUARE_SIDE
    if image.width == image.height:
        return image
    canvas = Image.new("RGB", (side, side), colour)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _cover_and_crop(
    image: Image.Image, size: tuple[int, int], ratio: float, filter: Image.Resampling
) -> Image.Image:
    """Scale a picture until it just covers size / ratio, then cut its centre by floor division."""
    width, height = image.size
    limit = _MAX_CROP_ASPECT * min(width, height)
    image = _centre(image, (min(height, limit), min(width, limit)))
    width, height = image.size
    cover_h, cover_w = (math.floor(length / ratio) for length in size)
    if width * cover_h >= height * cover_w:  # wider than the target: the height decides
        cover_w = width * cover_h // height
    else:
        cover_h = height * cover_w // width
    return _centre(_resize(image, (cover_h, cover_w), filter), size)


def _centre(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    if image.size == (width, height):
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
