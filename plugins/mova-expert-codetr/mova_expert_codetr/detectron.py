"""The backbone in the form that detectron2 asks for; importing this module needs detectron2.

Notation for tensor shapes:
    b: pictures, h, w: height and width in pixels, f: feature channels, p: side of a patch in pixels
"""

from __future__ import annotations

from typing import Any, Final

from detectron2.layers import ShapeSpec  # type: ignore[import-not-found]
from detectron2.modeling import Backbone as DetectronBackbone  # type: ignore[import-not-found]
from torch import Tensor

from mova_core.errors import ConfigError
from mova_expert_codetr.backbone import RELEASED_BACKBONE, Backbone, build_backbone

FEATURE: Final = "p4"
"""Name of the one map: level 4 of a pyramid has stride 16."""


class CoDetrBackbone(DetectronBackbone):  # type: ignore[misc]
    """Co-DETR's ViT with its neck, as a backbone of one map.

    Args:
        net: the backbone proper.
        channels: f.
        stride: p.
    """

    def __init__(self, net: Backbone, *, channels: int, stride: int) -> None:
        super().__init__()
        self.net = net
        self._channels = channels
        self._stride = stride

    @property
    def size_divisibility(self) -> int:
        """Pictures are padded to a multiple of this."""
        return self._stride

    def output_shape(self) -> dict[str, Any]:
        """Channels and stride of the map, by its name."""
        return {FEATURE: ShapeSpec(channels=self._channels, stride=self._stride)}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """[b, 3, h, w] -> the map [b, f, h / p, w / p], by its name."""
        return {FEATURE: self.net(image)}


def build_codetr_backbone(cfg: Any, input_shape: Any) -> CoDetrBackbone:
    """What detectron2 calls for `cfg.MODEL.BACKBONE.NAME = "build_codetr_backbone"`.

    Args:
        cfg: its configuration; `MODEL.CODETR` may hold sizes, which are the released ones otherwise.
        input_shape: shape of pictures, of 3 channels.

    Raises:
        ConfigError: pictures of other than 3 channels, or sizes that are not the backbone's.
    """
    if input_shape.channels != 3:
        raise ConfigError(
            "the backbone reads colour pictures",
            value=f"{input_shape.channels} channels",
            expected="3, in cfg.MODEL.PIXEL_MEAN",
        )
    stated = {name.lower(): size for name, size in cfg.MODEL.get("CODETR", {}).items()}
    if unknown := stated.keys() - RELEASED_BACKBONE.keys():
        raise ConfigError(
            "cfg.MODEL.CODETR holds sizes that the backbone does not have",
            value=", ".join(sorted(name.upper() for name in unknown)),
            expected=", ".join(name.upper() for name in RELEASED_BACKBONE),
        )
    sizes: dict[str, Any] = {**RELEASED_BACKBONE, **stated}
    return CoDetrBackbone(build_backbone(**sizes), channels=sizes["channels"], stride=sizes["patch"])
