"""The ways in which BiomedCLIP's vision weights are published; the names within the trunk are timm's in each.

Sources: open_clip, whose towers hold a timm model as their `trunk`; names and shapes of the released MoVA-8B.
"""

from __future__ import annotations

from typing import Final

from mova_core.experts.layouts import Layout

_MARK: Final = "blocks.0.attn.qkv.weight"

LAYOUTS: Final = (
    Layout(title="MoVA's release", mark=_MARK, prefix="model.vision_tower.vision_tower_6.trunk."),
    Layout(title="open_clip", mark=_MARK, prefix="visual.trunk."),
    Layout(title="timm", mark=_MARK, unused=(r"head\.",)),
)
"""In the first two the projection to the space shared with texts lies outside the trunk; it is not used."""
