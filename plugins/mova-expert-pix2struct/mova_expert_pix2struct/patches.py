"""From pictures to flattened patches: a picture's own mean and deviation, a grid, and the patches' places.

Source: Lee et al., "Pix2Struct: Screenshot Parsing as Pretraining for Visual Language Understanding"
(arXiv 2210.03347), section 2.2.

Notation for tensor shapes:
    b: pictures, h, w: pixels of a picture, n: patches (the most a stream allows), p: pixels along a patch,
    d: 2 + 3 * p * p values of a patch: its row, its column (both from 1; 0 marks a place without a patch),
    its pixels
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mova_core.cards.stream import InputStream
from mova_core.errors import ConfigError
from mova_core.experts.streams import stream_tensor

_LONGEST_SIDE: Final = 8_192
"""Larger pictures are made smaller first: a strip of a million pixels must not become a square of them."""


class PatchReader:
    """Cuts pictures into the patches of a square grid.

    With `size`, the grid is exact: 2,025 patches are 45 rows of 45. Without it, rows and columns are computed
    from the number of patches as publishers' processors do (`feasible_grid`), which by rounding loses a row
    and a column at many sizes; the rest of the tensor is zeros, and whoever reads it as a full grid reads
    shifted rows. Checkpoints trained that way may want it back, so it is kept, and warned of.

    Args:
        stream: of kind "patches", and of fit "pad" or "stretch".

    Raises:
        ConfigError: the stream is of another kind, or its size and its number of patches are no square grid.
    """

    def __init__(self, stream: InputStream) -> None:
        if stream.kind != "patches" or stream.fit not in ("pad", "stretch"):
            raise ConfigError(
                "this expert reads patches of a square grid",
                value=f"kind {stream.kind!r}, fit {stream.fit!r}",
                expected="kind 'patches', fit 'pad' or 'stretch'",
            )
        self.stream = stream
        self.patches = stream.patches or 0
        self.patch = stream.patch_size or 0
        self.side = math.isqrt(self.patches)
        if self.side**2 != self.patches:
            raise ConfigError(
                "the patches fill no square grid", value=self.patches, expected=f"for example {self.side**2}"
            )
        whole = (self.side * self.patch, self.side * self.patch)
        if stream.size not in (None, whole):
            raise ConfigError(
                f"{self.patches} patches of {self.patch} pixels fill another size",
                value=f"size {stream.size}",
                expected=f"size {whole}, or none to round as the publishers do",
            )

    @property
    def width(self) -> int:
        """Values of a patch, without its row and column: 3 * p * p."""
        return 3 * self.patch**2

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Cut pictures.

        Args:
            images: b RGB pictures.

        Returns:
            [b, n, d] float32 on the CPU.
        """
        if not images:
            return torch.empty(0, self.patches, 2 + self.width)
        return torch.stack([self._read(image) for image in images])  # [b, n, d]

    def _read(self, image: Image.Image) -> Tensor:
        pixels = self._pixels(image)  # [3, h, w]
        height, width = pixels.shape[1:]
        grid = (self.side, self.side)
        if self.stream.size is None:
            grid = feasible_grid(height, width, patches=self.patches, patch=self.patch)
            if grid != (self.side, self.side):
                warnings.warn(
                    f"a picture of {width}x{height} pixels gives {grid[0]}x{grid[1]} patches by rounding, "
                    f"which will be read as a grid of {self.side}x{self.side}: its rows are shifted; `size` "
                    "in the card's [input] makes the grid exact",
                    stacklevel=4,
                )
        return flattened_patches(pixels, grid, patches=self.patches, patch=self.patch)

    def _pixels(self, image: Image.Image) -> Tensor:
        """[3, h, w] in 0..255: the picture as it is, centred on a square where the stream pads."""
        width, height = (min(length, _LONGEST_SIDE) for length in image.size)
        if self.stream.fit == "pad":
            width = height = max(width, height)
        as_it_is = InputStream(
            size=(height, width),
            fit="pad" if self.stream.fit == "pad" else "stretch",
            pad_colour=self.stream.pad_colour,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            scale=1.0,
            interpolation=self.stream.interpolation,
        )
        return stream_tensor([image], as_it_is)[0]


def feasible_grid(height: int, width: int, *, patches: int, patch: int) -> tuple[int, int]:
    """The grid that publishers' processors choose: as many patches as allowed, in the picture's proportions.

    The order of the operations is theirs, since for squares the result hangs on the last bit.

    Args:
        height, width: of the picture in pixels.
        patches: the most patches.
        patch: side of a patch in pixels.

    Returns:
        Rows and columns.
    """
    scale = math.sqrt(patches * (patch / height) * (patch / width))
    rows = max(min(math.floor(scale * height / patch), patches), 1)
    columns = max(min(math.floor(scale * width / patch), patches), 1)
    return rows, columns


def flattened_patches(pixels: Tensor, grid: tuple[int, int], *, patches: int, patch: int) -> Tensor:
    """Standardise a picture, resize it to a grid and cut it.

    Mean and deviation are those of the picture before it is resized. They are taken off afterwards, which is
    the same (resizing is linear) and touches fewer pixels.

    Args:
        pixels: [3, h, w] float32, 0..255.
        grid: rows and columns.
        patches: n; places beyond the grid stay zero.
        patch: side p of a patch in pixels.

    Returns:
        [n, d] float32.
    """
    rows, columns = grid
    values = pixels.numpy()
    mean = float(values.mean(dtype=np.float64))
    deviation = max(float(values.std(dtype=np.float64)), values.size**-0.5)  # an even picture has none
    resized = F.interpolate(
        pixels[None],
        size=(rows * patch, columns * patch),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )[0]
    standard = (resized - mean) / deviation  # [3, rows * p, columns * p]
    cut = standard.reshape(3, rows, patch, columns, patch)
    cut = cut.permute(1, 3, 2, 4, 0).reshape(rows, columns, -1)  # [rows, columns, p * p * 3]
    row = torch.arange(1, rows + 1.0)[:, None, None].expand(rows, columns, 1)
    column = torch.arange(1, columns + 1.0)[None, :, None].expand(rows, columns, 1)
    placed = torch.cat([row, column, cut], dim=2).flatten(0, 1)  # [rows * columns, d]
    return F.pad(placed, (0, 0, 0, patches - rows * columns))  # [n, d]
