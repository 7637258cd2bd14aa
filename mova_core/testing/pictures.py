"""Pictures made by formula, the same on every machine."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZES = ((123, 457), (640, 333), (1, 1), (224, 224))
"""(width, height) of pictures that every expert must take."""


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB picture with smooth and sharp parts: gradients under a checkerboard.

    Args:
        width, height: in pixels.
        seed: another one gives another picture.
    """
    y, x = np.mgrid[:height, :width]
    pixels = np.stack(
        [
            (3 * x + 2 * y + 40 * seed) % 256,
            (x // 8 + y // 8 + seed) % 2 * 160 + 40,
            (x * y // 16 + 90 * seed) % 256,
        ],
        axis=2,
    )
    return Image.fromarray(pixels.astype(np.uint8))


def printed(words: str) -> Image.Image:
    """Words in black on white, for experts that see nothing else."""
    font = ImageFont.load_default()
    left, top, right, bottom = font.getbbox(words)
    page = Image.new("RGB", (int(right - left) + 16, int(bottom - top) + 16), "white")
    ImageDraw.Draw(page).text((8 - left, 8 - top), words, "black", font)
    return page.resize((page.width * 4, page.height * 4), Image.Resampling.BICUBIC)


def some_pictures() -> list[Image.Image]:
    """One picture of each of `SIZES`, no two alike."""
    return [picture(width, height, seed) for seed, (width, height) in enumerate(SIZES)]
