"""Heat maps of where each expert was attended to, as PNG pictures.

Notation for tensor shapes:
    l: blocks of the adapter, h, w: sides of the base grid (of the padded square picture)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from mova_core.model.answer import ImageTrace


def heat_map(image: Image.Image, attention: Tensor, *, padded: bool = True) -> Image.Image:
    """The picture, darkened where an expert's features were not read and tinted where they were.

    Args:
        image: the picture, RGB.
        attention: [l, h, w]; the mean over blocks is shown.
        padded: whether the base's stream padded the picture to a square, so that the grid covers more than
            it.

    Returns:
        A picture of the same size.
    """
    heat = attention.float().mean(0).cpu().numpy()  # [h, w]
    heat = (heat - heat.min()) / max(float(heat.max() - heat.min()), 1e-12)
    width, height = image.size
    side = max(width, height)
    frame = (side, side) if padded else (width, height)
    mask = Image.fromarray((255 * heat).astype(np.uint8)).resize(frame, Image.Resampling.BICUBIC)
    if padded:
        left, top = (side - width) // 2, (side - height) // 2
        mask = mask.crop((left, top, left + width, top + height))
    share = np.asarray(mask, dtype=np.float32)[..., None] / 255  # [height, width, 1]
    pixels = np.asarray(image, dtype=np.float32)
    warm = np.array([255.0, 96.0, 0.0], dtype=np.float32)
    shown = pixels * (0.35 + 0.65 * share) * (1 - 0.35 * share) + warm * 0.35 * share
    return Image.fromarray(shown.clip(0, 255).astype(np.uint8))


def write_heat_maps(
    trace: ImageTrace, image: Image.Image, folder: Path, *, padded: bool = True
) -> list[Path]:
    """One PNG for each chosen expert, named after it; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for id, attention in trace.attention.items():
        path = folder / f"{id}.png"
        heat_map(image, attention, padded=padded).save(path)
        written.append(path)
    return written
