"""The clock reader behind the expert contract.

Notation for tensor shapes:
    b: pictures, h, w: side of the picture in pixels, n: tokens of the grid, c: channels
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from mova_core.cards.stream import InputStream
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.layouts import Layout, pretrained
from mova_core.experts.protocol import VisionExpert
from mova_expert_clock.encoder import STRIDE, ClockEncoder

SIDE = 128
LAYOUT = Layout("mova_expert_clock.train", mark="norm.weight")


class ClockExpert(VisionExpert):
    """What the encoder makes of a dial, before its heads say hour and minute.

    Args:
        encoder: the encoder.
        side: of the picture it reads, in pixels.
    """

    def __init__(self, encoder: ClockEncoder, side: int = SIDE) -> None:
        super().__init__()
        self.encoder = encoder
        self.stream = clock_stream(side)

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        """The expert with the weights that `python -m mova_expert_clock.train` writes.

        Args:
            source: the safetensors file.
            dtype: of parameters and features.
            device: where the parameters go.

        Raises:
            ExpertLoadError: the file cannot be read or does not fit.
        """
        return cls(pretrained(ClockEncoder, source, (LAYOUT,), dtype=dtype, device=device))

    @classmethod
    def from_config(cls, **tiny: object) -> Self:
        """One with random weights.

        Args:
            tiny: `side` in pixels, `channels`, `layers`.
        """
        sizes = {"side": 64, "channels": 16, "layers": 1} | {name: int(str(v)) for name, v in tiny.items()}
        side = sizes.pop("side")
        return cls(ClockEncoder(**sizes), side)

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """[b, 3, h, w] -> features [b, n, c]."""
        height, width = stream.shape[2] // STRIDE, stream.shape[3] // STRIDE
        return ExpertFeatures(self.encoder(stream), (height, width))


def clock_stream(side: int) -> InputStream:
    """How the expert wants its pictures; the card says the same."""
    return InputStream(
        size=(side, side),
        fit="pad",
        pad_colour=(127, 127, 127),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        interpolation="bilinear",
    )
