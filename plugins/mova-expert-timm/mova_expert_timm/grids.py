"""From what networks give to tokens on a grid.

Notation for tensor shapes:
    b: pictures, n: tokens of the grid, c: channels, h, w: rows and columns of the grid, k: tokens before the
    grid's (class token, registers)
"""

from __future__ import annotations

from torch import Tensor

from mova_core.errors import ExpertRunError
from mova_core.experts.features import ExpertFeatures


def from_map(picture: Tensor, *, channels_last: bool = False) -> ExpertFeatures:
    """A map as features.

    Args:
        picture: [b, c, h, w], or [b, h, w, c].
        channels_last: which of them.
    """
    tokens = picture.flatten(1, 2) if channels_last else picture.flatten(2).transpose(1, 2)  # [b, n, c]
    height, width = picture.shape[1:3] if channels_last else picture.shape[2:4]
    return ExpertFeatures(tokens, (height, width))


def from_tokens(tokens: Tensor, grid: tuple[int, int], *, prefix: int | None = None) -> ExpertFeatures:
    """A sequence as features, without the tokens before the grid's.

    Args:
        tokens: [b, k + n, c].
        grid: (h, w) with h * w = n.
        prefix: k; None takes what is there beyond the grid, at most one class token.

    Raises:
        ExpertRunError: the sequence has another length.
    """
    height, width = grid
    found = tokens.shape[1] - height * width
    if found != prefix if prefix is not None else found not in (0, 1):
        before = "at most one" if prefix is None else f"{prefix}"
        raise ExpertRunError(
            "the network's tokens fill no grid",
            value=f"{tokens.shape[1]} tokens",
            expected=f"{height}x{width}, and {before} before them",
        )
    return ExpertFeatures(tokens[:, found:], grid)
