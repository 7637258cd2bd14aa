"""CLIP ViT-L/14-336 as the base encoder, behind the expert contract.

Sources: CLIP (arXiv 2103.00020); MoVA (arXiv 2404.13046, section 3.1), which runs it at 672 pixels and takes
the patch tokens of the second-to-last hidden state.

Notation for tensor shapes:
    b: pictures, n: h * w patches, c: channels
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from mova_core.cards.stream import InputStream
from mova_core.errors import ExpertLoadError
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.layouts import pretrained
from mova_core.experts.protocol import VisionExpert
from mova_core.experts.stated import stated_config
from mova_expert_clip.layouts import layouts

RELEASED: Final[Mapping[str, int]] = {
    "width": 1024,
    "inner": 4096,
    "layers": 24,
    "heads": 16,
    "side": 672,
}
"""The sizes of CLIP ViT-L/14 in MoVA, as `ClipEncoder.from_config` takes them."""


class ClipEncoder(VisionExpert):
    """CLIP's patch tokens of the second-to-last layer.

    Args:
        encoder: as `clip_encoder` builds it.
        stream: how it wants its pictures; of the size that the encoder was built for.
    """

    def __init__(self, encoder: CLIPVisionModel, stream: InputStream) -> None:
        super().__init__()
        self.encoder = encoder
        self.stream = stream

    @classmethod
    def from_pretrained(
        cls, source: str, *, dtype: torch.dtype, device: torch.device, side: int = RELEASED["side"]
    ) -> Self:
        """The encoder with published weights.

        Args:
            source: a weight file, or a folder, whose `config.json` says the sizes if it is CLIP's; the
                released sizes are taken otherwise.
            dtype: of parameters and features.
            device: where the parameters go.
            side: of the pictures it will see, in pixels; positions of another size are resized.

        Raises:
            ExpertLoadError: the sizes or weights cannot be read, or do not fit; what does not fit is listed.
        """
        config = stated_config(
            source, CLIPVisionConfig.from_dict, encoder="clip_vision_model", whole="clip"
        ) or _config(RELEASED)
        config.image_size = side
        encoder = pretrained(
            lambda: clip_encoder(config),
            source,
            layouts(config.num_hidden_layers, side // _patch(config)),
            dtype=dtype,
            device=device,
        )
        return cls(encoder, _stream(side))

    @classmethod
    def from_config(cls, **tiny: object) -> Self:
        """An encoder with random weights.

        Args:
            tiny: `width` in channels, `inner` width of the feed-forward network, `layers` (the last is not
                built), `heads`, and `side` of the picture in pixels.
        """
        sizes: dict[str, Any] = {"width": 32, "inner": 64, "layers": 3, "heads": 2, "side": 56}
        if unknown := tiny.keys() - sizes.keys():
            raise TypeError(f"{cls.__name__} takes {', '.join(sizes)}, not {', '.join(sorted(unknown))}")
        sizes |= tiny
        return cls(clip_encoder(_config(sizes)), _stream(sizes["side"]))

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """Encode prepared pictures.

        Args:
            stream: [b, 3, height, width], of the size that the encoder was built for.

        Returns:
            [b, n, c], one token for each patch.
        """
        tokens = self.encoder(stream).last_hidden_state[:, 1:]  # [b, n, c]
        height, width = stream.shape[-2:]
        patch_h, patch_w = self.encoder.embeddings.patch_embedding.kernel_size
        return ExpertFeatures(tokens, (height // patch_h, width // patch_w))


def clip_encoder(config: CLIPVisionConfig) -> CLIPVisionModel:
    """CLIP whose `last_hidden_state` is the second-to-last one of the whole tower.

    Args:
        config: of the whole tower; its last layer is not built, nor the norm of the pooled token.

    Returns:
        The encoder, with random weights.
    """
    encoder = CLIPVisionModel(config)
    encoder.encoder.layers = encoder.encoder.layers[:-1]
    encoder.add_module("post_layernorm", nn.Identity())
    return encoder


def _config(sizes: Mapping[str, int]) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=sizes["width"],
        intermediate_size=sizes["inner"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        image_size=sizes["side"],
        patch_size=14,
    )


def _patch(config: CLIPVisionConfig) -> int:
    """Side of a patch in pixels."""
    if not isinstance(config.patch_size, int):
        raise ExpertLoadError(
            "the patches of this CLIP are not square",
            value=f"patch_size {config.patch_size}",
            expected="one number",
        )
    return config.patch_size


def _stream(side: int) -> InputStream:
    return InputStream(
        size=(side, side),
        fit="pad",
        pad_colour=(122, 116, 104),
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        interpolation="bicubic",
    )
