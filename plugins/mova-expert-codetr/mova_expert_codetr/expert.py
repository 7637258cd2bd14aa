"""Co-DETR's backbone behind the expert contract.

Source: MoVA (arXiv 2404.13046, section 3.1). As in its release, the 1024 px picture that several experts
share is enlarged to 1280 px by repeating pixels, and the map of features is made smaller before it is fused.

Notation for tensor shapes:
    b: pictures, s: side of the stream in pixels, f: feature channels, h, w: rows and columns of patches, n:
        tokens
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mova_core.cards.manifest import read_expert_card
from mova_core.cards.stream import InputStream
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.layouts import pretrained
from mova_core.experts.protocol import VisionExpert
from mova_expert_codetr.layouts import LAYOUTS
from mova_expert_codetr.sizes import RELEASED, Sizes, sizes_in

STREAM: Final = read_expert_card(Path(__file__).with_name("expert.toml")).input
"""The card's stream; smaller experts differ from it in size alone."""

_RELEASED: Final = Sizes(**RELEASED)  # type: ignore[arg-type]


class CoDetrExpert(VisionExpert):
    """Features from which Co-DETR finds objects, at stride 16.

    Args:
        backbone: [b, 3, side, side] -> [b, f, h, w].
        stream: how it wants its pictures.
        side: to which the stream is enlarged for the backbone, in pixels.
        shrink: rows and columns to which the features are resized; None gives all that the backbone has.
    """

    def __init__(
        self, backbone: nn.Module, stream: InputStream, *, side: int, shrink: int | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.stream = stream
        self.side = side
        self.shrink = shrink

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        *,
        dtype: torch.dtype,
        device: torch.device,
        **sizes: object,
    ) -> Self:
        """The backbone with the weights of Co-DETR, of a detector of detectron2, or of the released MoVA.

        Args:
            source: a weight file or a folder. The grid of its positions is taken as it is, and its windows
                where it has rotary tables of the blocks; everything else has the released size.
            dtype: of parameters and features.
            device: where the parameters go.
            sizes: those that differ from the released ones, by the names of `mova_expert_codetr.sizes.Sizes`.

        Raises:
            TypeError: for a size of another name.
            ExpertLoadError: the files cannot be read, hold other rotary tables than are computed here, or
                lists what is missing, surplus or of another shape.
        """
        told = sizes_in(source, replace(_RELEASED, **sizes))  # type: ignore[arg-type]
        return pretrained(lambda: cls._build(told), source, LAYOUTS, dtype=dtype, device=device)

    @classmethod
    def from_config(cls, **tiny: object) -> Self:
        """A backbone with random weights.

        Args:
            tiny: sizes by the names of `mova_expert_codetr.sizes.Sizes`.

        Raises:
            TypeError: for any other name.
        """
        return cls._build(Sizes(**tiny))  # type: ignore[arg-type]

    @classmethod
    def _build(cls, sizes: Sizes) -> Self:
        stream = STREAM.model_copy(update={"size": (sizes.picture, sizes.picture)})
        return cls(sizes.backbone(), stream, side=sizes.side, shrink=sizes.shrink)

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """[b, 3, s, s] -> [b, n, f]."""
        picture = F.interpolate(stream, size=(self.side, self.side), mode="nearest")
        features: Tensor = self.backbone(picture)  # [b, f, h, w]
        if self.shrink is not None:
            small = (self.shrink, self.shrink)
            resized = F.interpolate(features.float(), size=small, mode="bilinear", align_corners=False)
            features = resized.to(features.dtype)
        return ExpertFeatures(features.flatten(2).transpose(1, 2), (features.shape[2], features.shape[3]))
