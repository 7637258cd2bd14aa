"""Sizes of SAM image encoders: the released ones, small ones for tests, and those that a checkpoint states.

The encoder itself is transformers' `SamVisionEncoder`: a ViT with windowed attention and decomposed relative
positions (arXiv 2304.02643, appendix A; arXiv 2203.16527), then a neck of two convolutions.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from huggingface_hub.errors import StrictDataclassError
from transformers import SamVisionConfig

from mova_core.errors import ExpertLoadError

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

TRANSFORMERS_TYPES: Final = ("sam", "sam_vision_model")
"""`model_type` of the transformers models whose vision encoder this is."""

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


def stated_config(source: str, model_types: Collection[str] = TRANSFORMERS_TYPES) -> SamVisionConfig | None:
    """The configuration that a folder of transformers states for its vision encoder.

    Args:
        source: a weight file or a folder.
        model_types: `model_type` of the models whose vision encoder has this architecture.

    Returns:
        The configuration; None for a single file, and for a folder without `config.json` or of another model.

    Raises:
        ExpertLoadError: `config.json` cannot be read.
    """
    file = Path(source) / "config.json"
    if not file.is_file():
        return None
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document.get("model_type") not in model_types:
            return None
        stated = document.get("vision_config", document)
        known = SamVisionConfig().to_dict().keys() - {"model_type"}
        return SamVisionConfig.from_dict({name: stated[name] for name in known & stated.keys()})
    except (OSError, ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ExpertLoadError(
            f"the configuration {str(file)!r} cannot be read",
            value=f"{type(error).__name__}: {error}",
            expected="the config.json of a transformers model",
            hint="Fetch it again.",
        ) from error
