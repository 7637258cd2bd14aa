"""Vary's vision vocabulary behind the expert contract: a SAM encoder of size B, then a convolution.

Sources: Vary (arXiv 2312.06109, section 3.2); MoVA (arXiv 2404.13046, section 3.1), which takes the features
before Vary's second convolution.

Notation for tensor shapes:
    b: pictures, s: side of the stream in pixels, c: channels of the encoder's neck, h, w: rows and columns of
        patches
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import torch
from torch import Tensor, nn
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from mova_core.cards.manifest import read_expert_card
from mova_core.cards.stream import InputStream
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.layouts import pretrained
from mova_core.experts.protocol import VisionExpert
from mova_expert_sam.encoder import encoder_config, encoder_config_of
from mova_expert_vary.layouts import LAYOUTS

RELEASED: Final[Mapping[str, object]] = {
    "image_size": 1024,
    "patch_size": 16,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "window_size": 14,
    "global_attn_indexes": (2, 5, 8, 11),
    "output_channels": 256,
}
"""Sizes of the released encoder, by the names of `mova_expert_sam.encoder.TINY`."""

STREAM: Final = read_expert_card(Path(__file__).with_name("expert.toml")).input
"""The card's stream; smaller encoders differ from it in size alone."""


class VaryExpert(VisionExpert):
    """Features that Vary learned by writing out documents and charts.

    Args:
        encoder: a SAM encoder of any size.
        reduce: halves rows and columns of what the encoder gives.
        stream: how it wants its pictures; its size is the encoder's.
    """

    def __init__(self, encoder: SamVisionEncoder, reduce: nn.Conv2d, stream: InputStream) -> None:
        super().__init__()
        self.encoder = encoder
        self.reduce = reduce
        self.stream = stream

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        """The encoder with the weights of Vary, of a descendant, or of the released MoVA.

        Args:
            source: a weight file or a folder; the `config.json` of transformers' GOT-OCR 2.0 in it decides
                the sizes, which are the released ones otherwise.
            dtype: of parameters and features.
            device: where the parameters go.

        Raises:
            ExpertLoadError: the files cannot be read, or lists what is missing, surplus or of another shape.
        """
        config = encoder_config_of(source, encoder="got_ocr2_vision", whole="got_ocr2") or encoder_config(
            **RELEASED
        )
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
        channels, side = config.output_channels, config.image_size
        reduce = nn.Conv2d(channels, 2 * channels, kernel_size=3, stride=2, padding=1, bias=False)
        return cls(SamVisionEncoder(config), reduce, STREAM.model_copy(update={"size": (side, side)}))

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """[b, 3, s, s] -> [b, h / 2 * w / 2, 2 * c]."""
        picture: Tensor = self.encoder(stream).last_hidden_state  # [b, c, h, w]
        reduced: Tensor = self.reduce(picture)  # [b, 2 * c, h / 2, w / 2]
        return ExpertFeatures(reduced.flatten(2).transpose(1, 2), (reduced.shape[2], reduced.shape[3]))
