"""Sizes of the encoder: what its configuration file says, and from that the encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import Pix2StructVisionConfig, Pix2StructVisionModel

from mova_core.errors import ExpertLoadError

SIZES = (
    "hidden_size",
    "d_ff",
    "d_kv",
    "num_attention_heads",
    "num_hidden_layers",
    "patch_embed_hidden_size",
    "seq_len",
)
"""What of a configuration makes up the encoder; dropout and the like have no say here."""

_MODEL_TYPES = ("pix2struct", "pix2struct_vision_model")


def encoder(**sizes: int) -> Pix2StructVisionModel:
    """An encoder with random weights.

    Args:
        sizes: of `SIZES`; those left out are the ones of Pix2Struct-base.
    """
    # the library's default deviation of 1e-10 would make every picture look alike; "sdpa" takes boolean masks
    settings: dict[str, Any] = {**sizes, "initializer_range": 0.02, "attn_implementation": "sdpa"}
    return Pix2StructVisionModel(Pix2StructVisionConfig(**settings))


def sizes_beside(source: Path) -> dict[str, int] | None:
    """Sizes that a `config.json` of transformers states, of the whole model or of its encoder alone.

    Args:
        source: a weight file or a folder.

    Returns:
        The sizes; None where there is no such file, or it describes a model this encoder may be a part of.

    Raises:
        ExpertLoadError: the configuration cannot be read.
    """
    path = source / "config.json"
    if not path.is_file():
        return None
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        if stated.get("model_type") not in _MODEL_TYPES:
            return None
        vision = stated.get("vision_config", stated)
        config = Pix2StructVisionConfig(**{name: vision[name] for name in SIZES if name in vision})
    except Exception as error:  # transformers raises whatever a wrong value provokes
        raise ExpertLoadError(
            f"the configuration {str(path)!r} cannot be read",
            value=f"{type(error).__name__}: {error}",
            expected="a config.json of transformers",
            hint="Fetch it again.",
        ) from error
    return {name: getattr(config, name) for name in SIZES}
