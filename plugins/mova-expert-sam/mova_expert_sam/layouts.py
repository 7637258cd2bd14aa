"""Who names the tensors of a SAM image encoder in which way.

Sources: the modules of segment-anything (`ImageEncoderViT`) and of transformers (`SamModel`), and the names
in the released MoVA checkpoint, whose tower 7 keeps segment-anything's.
"""

from __future__ import annotations

from typing import Final

from mova_core.experts.layouts import Layout

PUBLISHER_MARK: Final = "blocks.0.norm1.weight"
"""A tensor of every encoder in segment-anything's names."""

TRANSFORMERS_MARK: Final = "layers.0.layer_norm1.weight"
"""A tensor of every encoder in transformers' names."""

INTO_ENCODER: Final = ((r"^(?=(patch_embed|pos_embed|layers|neck)\b)", "encoder."),)
"""Rename transformers' names to those of a module that holds the encoder as `encoder`."""

FROM_PUBLISHER: Final = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"layers.\1.layer_norm\2."),
    (r"^blocks\.", "layers."),
    (r"^neck\.0\.", "neck.conv1."),
    (r"^neck\.1\.", "neck.layer_norm1."),
    (r"^neck\.2\.", "neck.conv2."),
    (r"^neck\.3\.", "neck.layer_norm2."),
    *INTO_ENCODER,
)
"""The same for segment-anything's names."""

LAYOUTS: Final = (
    Layout("segment-anything", PUBLISHER_MARK, prefix="image_encoder.", rename=FROM_PUBLISHER),
    Layout("transformers", TRANSFORMERS_MARK, prefix="vision_encoder.", rename=INTO_ENCODER),
    Layout(
        "released MoVA",
        PUBLISHER_MARK,
        prefix="model.vision_tower.vision_tower_7.",
        rename=FROM_PUBLISHER,
    ),
)
"""Prompt encoder and mask decoder lie outside these prefixes, and so are left alone."""
