"""DINOv2-giant behind the expert contract.

Sources: DINOv2 (arXiv 2304.07193); MoVA (arXiv 2404.13046, section 3.1), whose release shrinks a larger
picture to 518 pixels before it is encoded.

Notation for tensor shapes:
    b: pictures, n: h * w patches, c: channels
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model

from mova_core.cards.stream import InputStream
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.layouts import pretrained
from mova_core.experts.protocol import VisionExpert
from mova_core.experts.stated import stated_config
from mova_expert_dinov2.encoder import dinov2_encoder
from mova_expert_dinov2.layouts import layouts

RELEASED: Final[Mapping[str, int]] = {
    "width": 1536,
    "layers": 40,
    "heads": 24,
    "side": 518,
    "largest": 518,
    "input_side": 672,
}
"""The sizes of DINOv2-giant in MoVA, as `Dinov2Expert.from_config` takes them."""


class Dinov2Expert(VisionExpert):
    """DINOv2's patch tokens of the second-to-last layer, without the final norm.

    Args:
        encoder: as `dinov2_encoder` builds it.
        stream: how it wants its pictures.
        largest: side in pixels to which a wider picture is shrunk before it is encoded.
    """

    def __init__(self, encoder: Dinov2Model, stream: InputStream, largest: int = RELEASED["largest"]) -> None:
        super().__init__()
        self.encoder = encoder
        self.stream = stream
        self.largest = largest

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        """The expert with published weights.

        Args:
            source: a weight file, or a folder, whose `config.json` says the sizes if it is DINOv2's; the
                released sizes are taken otherwise.
            dtype: of parameters and features.
            device: where the parameters go.

        Raises:
            ExpertLoadError: the sizes or weights cannot be read, or do not fit; what does not fit is listed.
        """
        config = stated_config(source, Dinov2Config.from_dict, encoder="dinov2") or _config(RELEASED)
        encoder = pretrained(
            lambda: dinov2_encoder(config),
            source,
            layouts(config.num_hidden_layers),
            dtype=dtype,
            device=device,
        )
        return cls(encoder, _stream(RELEASED["input_side"]))

    @classmethod
    def from_config(cls, **tiny: object) -> Self:
        """An expert with random weights.

        Args:
            tiny: `width` in channels, `layers` (the last is not built), `heads`, `side` of the trained
                picture, `largest` side that is encoded, and `input_side` of the stream, in pixels.
        """
        sizes: dict[str, Any] = {
            "width": 32,
            "layers": 3,
            "heads": 2,
            "side": 42,
            "largest": 56,
            "input_side": 84,
        }
        if unknown := tiny.keys() - sizes.keys():
            raise TypeError(f"{cls.__name__} takes {', '.join(sizes)}, not {', '.join(sorted(unknown))}")
        sizes |= tiny
        return cls(dinov2_encoder(_config(sizes)), _stream(sizes["input_side"]), sizes["largest"])

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """Encode prepared pictures.

        Args:
            stream: [b, 3, height, width].

        Returns:
            [b, n, c], one token for each 14x14 pixels of what is encoded.
        """
        if stream.shape[-1] > self.largest:
            size = (self.largest, self.largest)
            shrunk = F.interpolate(stream.to(torch.float32), size=size, mode="bilinear", align_corners=False)
            stream = shrunk.to(stream.dtype)
        tokens = self.encoder(stream).last_hidden_state[:, 1:]  # [b, n, c]
        height, width = stream.shape[-2:]
        patch_h, patch_w = self.encoder.embeddings.patch_embeddings.patch_size
        return ExpertFeatures(tokens, (height // patch_h, width // patch_w))


def _config(sizes: Mapping[str, int]) -> Dinov2Config:
    return Dinov2Config(
        hidden_size=sizes["width"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        image_size=sizes["side"],
        patch_size=14,
        use_swiglu_ffn=True,
    )


def _stream(side: int) -> InputStream:
    return InputStream(
        size=(side, side),
        fit="pad",
        pad_colour=(123, 116, 103),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        interpolation="bicubic",
    )
