"""What the adapter gives back.

Notation for tensor shapes:
    b: samples, m: fused tokens, d: width of the language model, l: blocks, h, w: sides of the base grid
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class FusionOutput:
    """Fused image tokens, and why they are what they are.

    Args:
        tokens: [b, m, d], row-major over `grid`.
        grid: grid of the fused tokens, half the base grid's side.
        gates: by expert id, the weight [l, b] each block gave it in each sample (float32, zero where it was
            not chosen); only experts that some sample chose.
        attention: by expert id, where in the image the expert's features were read, [l, b, h, w]: attention
            averaged over heads and queries, summing to one (zero where not chosen). Empty unless asked for.
    """

    tokens: Tensor
    grid: tuple[int, int]
    gates: Mapping[str, Tensor]
    attention: Mapping[str, Tensor] = field(default_factory=dict)
