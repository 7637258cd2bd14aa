"""Sizes of SAM image encoders: the released ones, small ones for tests, and those that a checkpoint states.

The encoder itself is transformers' `SamVisionEncoder`: a ViT with windowed attention and decomposed relative
positions (arXiv 2304.02643, appendix A; arXiv 2203.16527), then a neck of two convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from transformers import SamVisionConfig

from mova_core.experts.stated import stated_config

RELEASED: Final[Mapping[str, object]] = {
    "image_size": 1024,
    "patch_size": 16,
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "window_size": 14,
    "global_attn_indexes": (7, 15, 23, 31),
    "output_channels": 256,
}
"""Sizes of ViT-H, under the names of transformers' `SamVisionConfig`."""

TINY: Final[Mapping[str, object]] = {
    "image_size": 64,
    "patch_size": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "window_size": 3,
    "global_attn_indexes": (1,),
    "output_channels": 8,
}
"""Small sizes; the window does not divide the grid, so that padding is exercised too."""

_INITIALISER: Final = 0.02
"""Deviation of random weights; with the 1e-10 of published configurations every picture would look alike."""


def encoder_config(**sizes: object) -> SamVisionConfig:
    """The configuration of an encoder of given sizes.

    Args:
        sizes: by the names of `TINY`, whose values they replace.

    Raises:
        TypeError: a name that is not in `TINY`.
    """
    unknown = sizes.keys() - TINY.keys()
    if unknown:
        raise TypeError(f"no size is called {', '.join(sorted(unknown))}; there are {', '.join(TINY)}")
    return SamVisionConfig.from_dict({**TINY, **sizes, "initializer_range": _INITIALISER})


def encoder_config_of(
    source: str, *, encoder: str = "sam_vision_model", whole: str = "sam"
) -> SamVisionConfig | None:
    """The configuration that a folder of transformers states for its vision encoder, if it states one.

    Args:
        source: a weight file or a folder.
        encoder, whole: `model_type` of an encoder of this architecture, and of the model it is a part of.

    Raises:
        ExpertLoadError: `config.json` cannot be read.
    """
    return stated_config(source, _from_stated, encoder=encoder, whole=whole)


def _from_stated(stated: Mapping[str, Any]) -> SamVisionConfig:
    """Relatives of SAM state more of their encoders than SAM does."""
    known = SamVisionConfig().to_dict().keys() - {"model_type"}
    return SamVisionConfig.from_dict({name: stated[name] for name in known & stated.keys()})
