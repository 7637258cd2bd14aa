"""The encoder: transformers' DINOv2 up to its second-to-last layer, with position embeddings as trained.

Sources: DINOv2 (arXiv 2304.07193) and its published code, which resizes position embeddings by a factor; MoVA
(arXiv 2404.13046), whose release takes the second-to-last hidden state without the final norm.

Notation for tensor shapes:
    s: side of the trained grid of positions, h, w: side of the grid of the picture at hand, c: channels,
    t: tokens (class token and h * w patches)
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

_MARGIN: Final = 0.1
"""What the published code adds to h and w before it divides them by s, against rounding down."""


class Embeddings(Dinov2Embeddings):
    """Patches, class token and positions; positions are resized as the published code of DINOv2 does it.

    transformers resizes to a size, not by a factor, and so samples positions elsewhere: the two agree on
    pictures of the trained size only.

    Args:
        config: of the whole DINOv2.
    """

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__(config)
        self.mask_token = None  # hides patches in pre-training only

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """Positions for a picture.

        Args:
            embeddings: [b, t, c] tokens that the positions will be added to.
            height, width: of the picture, in pixels.

        Returns:
            [1, t, c] in the dtype of the position table.
        """
        table = self.position_embeddings  # [1, 1 + s * s, c]
        side = math.isqrt(table.shape[1] - 1)
        patch_h, patch_w = self.patch_embeddings.patch_size
        h, w = height // patch_h, width // patch_w
        # not every picture with as many patches: the published code resizes for one that is not square
        if height == width and h == side:
            return table
        grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # [1, c, s, s]
        grid = F.interpolate(
            grid.to(torch.float32),
            scale_factor=((h + _MARGIN) / side, (w + _MARGIN) / side),
            mode="bicubic",
            align_corners=False,
        )  # [1, c, h, w]
        return torch.cat([table[:, :1], grid.to(table.dtype).flatten(2).transpose(1, 2)], dim=1)  # [1, t, c]


def dinov2_encoder(config: Dinov2Config) -> Dinov2Model:
    """DINOv2 whose `last_hidden_state` is the second-to-last one of the whole model, not normalised.

    Args:
        config: of the whole DINOv2; its last layer is not built.

    Returns:
        The encoder, with random weights.
    """
    encoder = Dinov2Model(config)
    encoder.embeddings = Embeddings(config)
    encoder.encoder.layer = encoder.encoder.layer[:-1]
    encoder.add_module("layernorm", nn.Identity())
    return encoder
