"""What transformers' vision networks are given, and what of their output are the features.

Notation for tensor shapes:
    b: pictures, h, w: pixels, p: side of a patch, n: tokens of the feature grid, k: tokens before them (class
    token, registers), c: feature channels
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from mova_core.errors import ExpertRunError
from mova_core.experts.features import ExpertFeatures
from mova_expert_timm.grids import from_map, from_tokens

_MOST_BEFORE: Final = 16
"""Class token and registers, at most: more tokens than that beside the grid mean that the grid is another."""


def patches(stream: Tensor, patch: int) -> dict[str, Any]:
    """Inputs of a network that reads pictures of any proportions as patches (SigLIP 2).

    Args:
        stream: [b, 3, h, w]; what does not fill a patch is left out.
        patch: side p of a patch in pixels.

    Returns:
        Patches [b, n, p * p * 3], no mask, and rows and columns.
    """
    batch, channels, height, width = stream.shape
    rows, columns = height // patch, width // patch
    cut = stream[:, :, : rows * patch, : columns * patch]
    cut = cut.reshape(batch, channels, rows, patch, columns, patch)
    cut = cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)  # [b, n, p * p * 3]
    return {
        "pixel_values": cut,
        "pixel_attention_mask": None,  # every place has a patch
        # read as numbers, so on the CPU wherever the pixels are
        "spatial_shapes": torch.tensor([[rows, columns]] * batch, device="cpu"),
    }


def hidden_state(output: Any, layer: int) -> Tensor:
    """A hidden state of an output.

    Args:
        output: of a vision model, or of a backbone, whose last map is taken.
        layer: counted from the end.

    Raises:
        ExpertRunError: the output is a backbone's, and not the last is asked for.
    """
    maps = getattr(output, "feature_maps", None)
    if maps is not None and layer != -1:
        raise ExpertRunError(
            "a backbone gives the maps that its configuration chooses",
            value=f"layer {layer}",
            expected="layer -1, and `out_indices` in its config.json",
        )
    if maps is not None:
        states = maps
    elif layer == -1:
        states = (output.last_hidden_state,)
    else:  # where a network keeps its tokens in another order, it also gives them as maps
        states = getattr(output, "reshaped_hidden_states", None) or output.hidden_states
    state: Tensor = states[layer]
    return state


def on_grid(state: Tensor, config: PreTrainedConfig, size: tuple[int, int]) -> ExpertFeatures:
    """A hidden state as features.

    Args:
        state: [b, k + n, c], [b, c, rows, columns] or [b, rows, columns, c].
        config: of the network.
        size: (h, w) of the pictures.

    Raises:
        ExpertRunError: it is neither a map nor a sequence that fills a grid.
    """
    if state.dim() == 4:
        return from_map(state, channels_last=_channels_last(state, size))
    if state.dim() != 3:
        raise ExpertRunError(
            "the network gives no map",
            value=f"model_type {config.model_type!r}: {tuple(state.shape)}",
            expected="[b, n, c] or [b, c, h, w]",
        )
    rows, columns = _grid(state.shape[1], config, size)
    return from_tokens(state, (rows, columns), prefix=state.shape[1] - rows * columns)


def _channels_last(state: Tensor, size: tuple[int, int]) -> bool:
    """Whether a map is [b, rows, columns, c], as some networks keep it: it has the picture's proportions."""
    _, first, second, third = state.shape
    height, width = size
    return first * width == second * height and second * width != third * height


def _grid(tokens: int, config: PreTrainedConfig, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a sequence: those of patches; where a network has stages, of patches merged two by
    two at most once a stage. Anything else is no grid, such as a detector's queries or a masked part."""
    height, width = size
    stated = getattr(config, "patch_stride", None) or getattr(config, "patch_size", None)
    merges = len(getattr(config, "depths", ()))
    first = (stated[0] if isinstance(stated, (list, tuple)) else stated) or (2 if merges else 0)
    for stride in (first << merge for merge in range(merges + 1) if first):
        rows, columns = height // stride, width // stride
        if rows and columns and 0 <= tokens - rows * columns <= _MOST_BEFORE:
            return rows, columns
    raise ExpertRunError(
        "the network's tokens fill no grid",
        value=f"model_type {config.model_type!r}: {tokens} tokens of {height}x{width} pixels, "
        f"patches of {stated}",
        expected=f"one token a patch, after at most {_MOST_BEFORE} others",
    )
