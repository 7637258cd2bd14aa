"""Who names the tensors of the backbone in which way.

Sources: the modules of Co-DETR (backbone `ViT`, neck `SFP`, whose level `p4` is the one of stride 16), the
names in the released MoVA checkpoint, and detectron2, which keeps a detector's backbone under `backbone`.
"""

from __future__ import annotations

import re
from math import isqrt
from typing import Final

import torch

from mova_core.errors import ExpertLoadError
from mova_core.experts.layouts import Layout, State
from mova_expert_codetr.rotary import published_tables

MARK: Final = "blocks.0.norm1.weight"
"""A tensor of every backbone, in every layout."""

ROTARY: Final = re.compile(r"(^|\.)rope(_win|_glb)?\.freqs_(?P<kind>cos|sin)$")
"""Names of rotary tables, which follow from the sizes; one table goes by many names."""

_ROUNDING: Final = 2.0**-8
"""What tables may differ by: values that were rounded to bfloat16 are found in files of any dtype."""

_FROM_PUBLISHER: Final = (
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^(?!.*freqs_)", "backbone."),
)

_DETECTOR: Final = (
    r"(query|rpn|roi|bbox|mask)_head\.",
    r"neck\.p[2356]\.",
    r"ema_",
)
"""Heads, the neck's other levels, and the averages that mmdet keeps beside the weights."""


def without_tables(state: State) -> State:
    """Drop rotary tables, once they are found to be those that are computed here.

    Args:
        state: tensors by the expert's names, tables by any name.

    Raises:
        ExpertLoadError: a table of another shape or with other values.
    """
    for name in [name for name in state if ROTARY.search(name)]:
        _check_table(name, state.pop(name))
    return state


def _check_table(name: str, table: torch.Tensor) -> None:
    found = ROTARY.search(name)
    side = isqrt(table.shape[0]) if table.dim() == 2 else 0
    if found is None or side * side != table.shape[0] or table.shape[1] % 4:
        raise ExpertLoadError(
            f"the rotary table {name} has no shape of one",
            value=str(tuple(table.shape)),
            expected="(cells of a square grid, dimensions of a head)",
        )
    ours = published_tables(side, table.shape[1])[found["kind"] == "sin"]
    error = (table.float() - ours).abs().max().item()
    if not error <= _ROUNDING:
        raise ExpertLoadError(
            f"the rotary table {name} is not the one computed for a grid of {side}x{side}",
            value=f"a difference of {error:.3g}",
            expected=f"at most {_ROUNDING:g}",
            hint="The weights were trained with other positions; they would give wrong features here.",
        )


LAYOUTS: Final = (
    Layout(
        "released MoVA",
        MARK,
        prefix="model.vision_tower.vision_tower_3.",
        rename=_FROM_PUBLISHER,
        convert=without_tables,
    ),
    Layout(
        "detectron2",
        MARK,
        prefix="backbone.net.",
        rename=_FROM_PUBLISHER,
        convert=without_tables,
    ),
    Layout(
        "Co-DETR",
        f"backbone.{MARK}",
        rename=((r"^backbone\.", ""), (r"^neck\.p4\.", "neck."), *_FROM_PUBLISHER),
        unused=_DETECTOR,
        convert=without_tables,
    ),
)
