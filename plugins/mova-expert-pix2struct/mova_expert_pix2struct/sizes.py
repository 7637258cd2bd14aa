"""Sizes of the encoder: what its configuration file says, and from that the encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import Pix2StructVisionConfig, Pix2StructVisionModel

from mova_core.experts.stated import stated_config

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
    return stated_config(source, _sizes, encoder="pix2struct_vision_model", whole="pix2struct")


def _sizes(stated: Mapping[str, Any]) -> dict[str, int]:
    config = Pix2StructVisionConfig(**{name: stated[name] for name in SIZES if name in stated})
    return {name: getattr(config, name) for name in SIZES}
