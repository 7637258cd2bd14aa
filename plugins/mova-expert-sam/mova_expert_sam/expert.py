"""The Segment Anything Model's image encoder behind the expert contract.

Notation for tensor shapes:
    b: pictures, s: side of the stream in pixels, c: channels of the neck, h, w: rows and columns of patches
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

import torch
from torch import Tensor
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from mova_core.cards.manifest import read_expert_card
from mova_core.cards.stream import InputStream
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.layouts import pretrained
from mova_core.experts.protocol import VisionExpert
from mova_expert_sam.encoder import RELEASED, encoder_config, encoder_config_of
from mova_expert_sam.layouts import LAYOUTS

STREAM: Final = read_expert_card(Path(__file__).with_name("expert.toml")).input
"""The card's stream; smaller encoders differ from it in size alone."""


class SamExpert(VisionExpert):
    """Features of SAM's neck: one token a patch, made to be cut into masks.

    Args:
        encoder: transformers' encoder, of any size.
        stream: how it wants its pictures; its size is the encoder's.
    """

    def __init__(self, encoder: SamVisionEncoder, stream: InputStream) -> None:
        super().__init__()
        self.encoder = encoder
        self.stream = stream

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        """The encoder with the weights of segment-anything, of transformers or of the released MoVA.

        Args:
            source: a weight file or a folder; a transformers `config.json` in it decides the sizes, which are
                ViT-H's otherwise.
            dtype: of parameters and features.
            device: where the parameters go.

        Raises:
            ExpertLoadError: the files cannot be read, or lists what is missing, surplus or of another shape.
        """
        config = encoder_config_of(source) or encoder_config(**RELEASED)
        return pretrained(lambda: cls._build(config), source, LAYOUTS, dtype=dtype, device=device)

    @classmethod
    def from_config(cls, **tiny: object) -> Self:
        """An encoder with random weights.

        Args:
            tiny: sizes by the names of `mova_expert_sam.encoder.TINY`.

        Raises:
            TypeError: for any other name.
        """
        return cls._build(encoder_config(**tiny))

    @classmethod
    def _build(cls, config: SamVisionConfig) -> Self:
        side = config.image_size
        return cls(SamVisionEncoder(config), STREAM.model_copy(update={"size": (side, side)}))

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """[b, 3, s, s] -> [b, h * w, c]."""
        picture: Tensor = self.encoder(stream).last_hidden_state  # [b, c, h, w]
        return ExpertFeatures(picture.flatten(2).transpose(1, 2), (picture.shape[2], picture.shape[3]))
