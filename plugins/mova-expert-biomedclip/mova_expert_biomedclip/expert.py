"""The vision tower of BiomedCLIP behind the expert contract.

Sources: BiomedCLIP (arXiv 2303.00915); MoVA (arXiv 2404.13046, section 3.1), whose release shrinks the base
encoder's tensor for it and takes the normalised patch tokens, without the projection to the space of texts.

Notation for tensor shapes:
    b: pictures, n: h * w patches, c: channels
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

import torch
from timm.models import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from mova_core.cards.stream import InputStream
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.layouts import pretrained
from mova_core.experts.protocol import VisionExpert
from mova_expert_biomedclip.layouts import LAYOUTS

RELEASED: Final[Mapping[str, int]] = {
    "width": 768,
    "layers": 12,
    "heads": 12,
    "side": 224,
    "input_side": 672,
}
"""The sizes of BiomedCLIP in MoVA, as `BiomedClipExpert.from_config` takes them."""


class BiomedClipExpert(VisionExpert):
    """BiomedCLIP's patch tokens after the trunk's norm.

    Args:
        trunk: timm's vision transformer, without a head.
        stream: how it wants its pictures: as the base encoder does.
    """

    def __init__(self, trunk: VisionTransformer, stream: InputStream) -> None:
        super().__init__()
        self.trunk = trunk
        self.stream = stream

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device, **sizes: int) -> Self:
        """The expert with published weights.

        Args:
            source: a weight file, or a folder with one.
            dtype: of parameters and features.
            device: where the parameters go.
            sizes: those that differ from the released ones, as for `from_config`; no file states them.

        Raises:
            ExpertLoadError: the weights cannot be read, or do not fit; what does not fit is listed.
        """
        chosen = _chosen(RELEASED, sizes)
        trunk = pretrained(lambda: _trunk(chosen), source, LAYOUTS, dtype=dtype, device=device)
        return cls(trunk, _stream(chosen["input_side"]))

    @classmethod
    def from_config(cls, **tiny: object) -> Self:
        """An expert with random weights.

        Args:
            tiny: `width` in channels, `layers`, `heads`, `side` of what is encoded, and `input_side` of the
                stream, in pixels.
        """
        sizes = _chosen({"width": 32, "layers": 2, "heads": 2, "side": 48, "input_side": 96}, tiny)
        return cls(_trunk(sizes), _stream(sizes["input_side"]))

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """Encode prepared pictures.

        Args:
            stream: [b, 3, height, width], normalised as CLIP's.

        Returns:
            [b, n, c], one token for each 16x16 pixels of what is encoded.
        """
        size = self.trunk.patch_embed.img_size
        shrunk = F.interpolate(stream.to(torch.float32), size=size, mode="bilinear", align_corners=False)
        tokens = self.trunk.forward_features(shrunk.to(stream.dtype))  # [b, 1 + n, c]
        h, w = self.trunk.patch_embed.grid_size
        return ExpertFeatures(tokens[:, self.trunk.num_prefix_tokens :], (h, w))


def _chosen(known: Mapping[str, int], given: Mapping[str, Any]) -> dict[str, int]:
    if unknown := given.keys() - known.keys():
        raise TypeError(f"the sizes are {', '.join(known)}; there is no {', '.join(sorted(unknown))}")
    return {**known, **given}


def _trunk(sizes: Mapping[str, int]) -> VisionTransformer:
    return VisionTransformer(
        img_size=sizes["side"],
        patch_size=16,
        embed_dim=sizes["width"],
        depth=sizes["layers"],
        num_heads=sizes["heads"],
        num_classes=0,
    )


def _stream(side: int) -> InputStream:
    return InputStream(
        size=(side, side),
        fit="pad",
        pad_colour=(122, 116, 104),
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        interpolation="bicubic",
    )
