"""How publishers name the encoder's tensors.

The models were published as T5X checkpoints, directories of arrays that torch cannot read; people hold the
conversion to transformers' layout that the same publisher put on the hub.

Sources: transformers' conversion script (`convert_pix2struct_original_pytorch_to_hf.py`) and the key names of
the released MoVA-8B.
"""

from __future__ import annotations

from mova_core.experts.layouts import Layout

_MARK = "embeddings.patch_projection.weight"


def layouts(tower: int) -> tuple[Layout, ...]:
    """The layouts of an encoder of this architecture.

    Args:
        tower: its number among the towers of the released MoVA checkpoint.
    """
    return (
        Layout(
            title="transformers' Pix2StructForConditionalGeneration",
            mark="encoder." + _MARK,
            rename=((r"^encoder\.", ""),),
            unused=(r"decoder\.",),
        ),
        Layout(title="transformers' Pix2StructVisionModel", mark=_MARK),
        Layout(
            title="the released MoVA checkpoint",
            mark=_MARK,
            prefix=f"model.vision_tower.vision_tower_{tower}.",
        ),
    )
