"""The vision encoder of Deplot: Pix2Struct-base, trained further to turn plots into tables.

Source: Liu et al., "DePlot: One-shot visual language reasoning by plot-to-table translation"
(arXiv 2212.10505).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mova_expert_pix2struct.expert import Pix2StructExpert
from mova_expert_pix2struct.layouts import layouts

RELEASED: Final[Mapping[str, int]] = {
    "hidden_size": 768,
    "d_ff": 2048,
    "d_kv": 64,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "patch_embed_hidden_size": 768,
    "seq_len": 4096,
    "patches": 2025,
}
"""Deplot-base, and the patches that MoVA gives it."""


class DeplotExpert(Pix2StructExpert):
    """Reads a picture as a grid of patches, as `Pix2StructExpert` does, with sizes and weights of its own."""

    released = RELEASED
    layouts = layouts(5)
