"""Who names the tensors of Vary's vision vocabulary in which way.

Sources: the modules of Vary (`varyQwenModel`, `varyOPTModel`) and of transformers (`GotOcr2Model`, a
descendant with this encoder), and the names in the released MoVA checkpoint, which lacks the second
convolution.
"""

from __future__ import annotations

from typing import Final

from mova_core.experts.layouts import Layout
from mova_expert_sam.layouts import FROM_PUBLISHER, INTO_ENCODER, PUBLISHER_MARK, TRANSFORMERS_MARK

_SECOND_CONVOLUTION: Final = r"net_3\."

_PUBLISHERS: Final = {
    "Vary on Qwen": "transformer.vision_tower_high.",
    "Vary on other language models": "model.vision_tower_high.",
    "Vary on OPT": "model.vision_tower.",
    "released MoVA": "model.vision_tower.vision_tower_2.",
}

LAYOUTS: Final = (
    *(
        Layout(
            title,
            PUBLISHER_MARK,
            prefix=prefix,
            rename=((r"^net_2\.", "reduce."), *FROM_PUBLISHER),
            unused=(_SECOND_CONVOLUTION,),
        )
        for title, prefix in _PUBLISHERS.items()
    ),
    *(
        Layout(
            "transformers' GOT-OCR 2.0",
            f"vision_tower.{TRANSFORMERS_MARK}",
            prefix=prefix,
            rename=(
                (r"^multi_modal_projector\.conv_upsampler1\.", "reduce."),
                (r"^vision_tower\.", ""),
                *INTO_ENCODER,
            ),
            unused=(r"language_model\.", r"lm_head\.", r"multi_modal_projector\.(?!conv_upsampler1\.)"),
        )
        for prefix in ("", "model.")
    ),
)
"""Language models, and the CLIP beside the encoder in Vary, lie outside the prefixes or are not used."""
