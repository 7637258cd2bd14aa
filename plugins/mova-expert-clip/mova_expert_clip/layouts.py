"""The ways in which CLIP's vision weights are published.

Sources: openai/CLIP and transformers' conversion script for it; names and shapes of the released MoVA-8B.

Notation for tensor shapes:
    c: channels
"""

from __future__ import annotations

from typing import Final

from mova_core.experts.layouts import Layout, State
from mova_expert_clip.positions import resized

_FUSED: Final = {"in_proj": ("q_proj", "k_proj", "v_proj")}  # [3c, c] -> 3 of [c, c]
_POSITIONS: Final = "embeddings.position_embedding.weight"

_OPENAI: Final = (
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^positional_embedding$", _POSITIONS),
    (r"^conv1\.", "embeddings.patch_embedding."),
    (r"^ln_pre\.", "pre_layrnorm."),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.attn\.in_proj_(weight|bias)$", r".self_attn.in_proj.\1"),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def layouts(layers: int, side: int) -> tuple[Layout, ...]:
    """The layouts of a CLIP vision tower, of which the last layer is not needed.

    Args:
        layers: of the whole tower.
        side: of the grid of patches that it will run at; positions are resized to it.
    """

    def convert(state: State) -> State:
        if _POSITIONS in state:
            state[_POSITIONS] = resized(state[_POSITIONS], side)
        return state

    last = layers - 1
    unused = (r"embeddings\.position_ids$", rf"encoder\.layers\.{last}\.", r"post_layernorm\.")
    transformers = (
        ("MoVA's release", "model.vision_tower.vision_tower_0.vision_model."),
        ("transformers' CLIPModel", "vision_model."),
        ("transformers' CLIPVisionModel", ""),
    )
    openai = Layout(
        title="openai/CLIP",
        prefix="visual.",
        mark="transformer.resblocks.0.attn.in_proj_weight",
        rename=_OPENAI,
        unused=(r"proj$", rf"transformer\.resblocks\.{last}\.", r"ln_post\."),
        fused=_FUSED,
        convert=convert,
    )
    return (
        *(
            Layout(title, "embeddings.class_embedding", prefix=prefix, unused=unused, convert=convert)
            for title, prefix in transformers
        ),
        openai,
    )
