"""The encoders of mova-nano behind the expert contract.

Notation for tensor shapes:
    b: images, n: 256 cells of the 16x16 grid, c: feature channels (320 for the base, 128 for an expert)
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from mova_core.experts.features import ExpertFeatures
from mova_core.experts.protocol import VisionExpert
from mova_core.experts.weights import load_strict, read_weights
from mova_nano.encoders import GRID, DenseEncoder, LiteStages
from mova_nano.streams import nano_stream


class NanoBase(VisionExpert):
    """EfficientNet-Lite0, trained on ImageNet, up to its last stage: 320 channels at stride 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = nano_stream(512)
        self.encoder = LiteStages(7)

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        """Reads `tf_efficientnet_lite0` weights in timm's layout; head and classifier are not used.

        Args:
            source: a safetensors file, or a folder with `model.safetensors`.
            dtype: of parameters and features.
            device: where the parameters go.

        Raises:
            ExpertLoadError: if the file cannot be read or lacks a weight.
        """
        path = Path(source) / "model.safetensors" if Path(source).is_dir() else Path(source)
        expert = cls()
        unused = ("conv_head.", "bn2.", "classifier.")
        state = {name: tensor for name, tensor in read_weights(path).items() if not name.startswith(unused)}
        load_strict(expert.encoder, state, source=str(path))
        return expert.to(device, dtype)

    @classmethod
    def from_config(cls, **tiny: object) -> Self:
        """The same network with random weights: it is small already, so no size can be given.

        Raises:
            TypeError: for any argument.
        """
        if tiny:
            raise TypeError(f"{cls.__name__} takes no sizes, got {', '.join(tiny)}")
        return cls()

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """[b, 3, 512, 512] -> [b, n, 320]."""
        picture = self.encoder(stream.contiguous(memory_format=torch.channels_last))  # [b, c, h, w]
        return ExpertFeatures(picture.flatten(2).transpose(1, 2), (picture.shape[2], picture.shape[3]))


class NanoExpert(VisionExpert):
    """A small network taught to name what it sees on each cell; its last hidden state is the feature.

    Args:
        size: side of the input in pixels, 256 or 512.
        channels: feature channels c.
    """

    def __init__(self, size: int = 256, channels: int = 128) -> None:
        super().__init__()
        self.stream = nano_stream(size)
        self.encoder = DenseEncoder(channels=channels, stride=size // 256)

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        """Reads what `mova nano experts` wrote.

        Args:
            source: a safetensors file.
            dtype: of parameters and features.
            device: where the parameters go.

        Raises:
            ExpertLoadError: if the file cannot be read or does not fit.
        """
        expert = cls()
        load_strict(expert.encoder, read_weights(source), source=source)
        return expert.to(device, dtype)

    @classmethod
    def from_config(cls, **tiny: object) -> Self:
        """An expert with random weights.

        Args:
            tiny: `size` in pixels and `channels`, as for the constructor.
        """
        return cls(**tiny)  # type: ignore[arg-type]

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """[b, 3, s, s] -> [b, n, c]."""
        return ExpertFeatures(
            self.encoder(stream.contiguous(memory_format=torch.channels_last)), (GRID, GRID)
        )
