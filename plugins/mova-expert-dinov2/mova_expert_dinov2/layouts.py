"""The ways in which DINOv2's weights are published.

Sources: facebookresearch/dinov2 and transformers' conversion script for it; names and shapes of the released
MoVA-8B.

Notation for tensor shapes:
    c: channels, f: channels inside the feed-forward network
"""

from __future__ import annotations

from typing import Final

from mova_core.experts.layouts import Layout

_FUSED: Final = {
    "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),  # [3c, c] -> 3 of [c, c]
    "mlp.weights_in": ("mlp.gate_proj", "mlp.up_proj"),  # [2f, c] -> 2 of [f, c]
}
"""Projections kept as one by publishers, and the parts they are cut into, in order."""

_TRANSFORMERS: Final = (
    (r"attention\.attention\.query\.", "attention.q_proj."),
    (r"attention\.attention\.key\.", "attention.k_proj."),
    (r"attention\.attention\.value\.", "attention.v_proj."),
    (r"attention\.output\.dense\.", "attention.o_proj."),
    (r"mlp\.weights_out\.", "mlp.down_proj."),
)

_PUBLISHER: Final = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"\.mlp\.w12\.", ".mlp.weights_in."),
    (r"\.mlp\.w3\.", ".mlp.down_proj."),
)


def layouts(layers: int) -> tuple[Layout, ...]:
    """The layouts of a DINOv2 with that many layers, of which the last one is not needed.

    Args:
        layers: of the whole model.
    """
    last = layers - 1
    unused = (r"embeddings\.mask_token$", rf"encoder\.layer\.{last}\.", r"layernorm\.")
    mark = "embeddings.cls_token"
    return (
        Layout(
            title="MoVA's release",
            prefix="model.vision_tower.vision_tower_1.",
            mark=mark,
            rename=_TRANSFORMERS,
            unused=unused,
            fused=_FUSED,
        ),
        Layout(title="transformers", mark=mark, rename=_TRANSFORMERS, unused=unused, fused=_FUSED),
        Layout(
            title="facebookresearch/dinov2",
            mark="blocks.0.mlp.w12.weight",
            rename=_PUBLISHER,
            unused=(r"mask_token$", rf"blocks\.{last}\.", r"norm\."),
            fused=_FUSED,
        ),
    )
