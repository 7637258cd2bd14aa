"""What experts give, and which samples of a batch they gave it for.

Notation for tensor shapes:
    b: samples, n: tokens of the grid (h * w, row-major), c: feature channels, m: samples that chose an expert
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ExpertFeatures:
    """Features of one encoder for some images.

    Args:
        tokens: [b, n, c], row-major over the grid.
        grid: (h, w) with h * w = n.
    """

    tokens: Tensor
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        h, w = self.grid
        if self.tokens.dim() != 3 or self.tokens.shape[1] != h * w:
            raise ValueError(
                f"features of shape {tuple(self.tokens.shape)} do not fit a grid of {h}x{w}: "
                f"expected [b, {h * w}, c]"
            )

    @property
    def channels(self) -> int:
        """Feature channels c."""
        return self.tokens.shape[2]


@dataclass(frozen=True, slots=True)
class RoutedFeatures:
    """One expert's features for just the samples that chose it.

    Args:
        features: [m, n, c] on the expert's grid.
        rows: for each of the m samples its row in the batch, ascending.
    """

    features: ExpertFeatures
    rows: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.rows) != self.features.tokens.shape[0]:
            raise ValueError(f"{len(self.rows)} rows named for {self.features.tokens.shape[0]} samples")
        if list(self.rows) != sorted(set(self.rows)):
            raise ValueError(f"rows must ascend without repeats, got {self.rows}")
