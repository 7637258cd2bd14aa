"""Records what an expert makes of pictures, for its preprocessing to be held against later.

    python -m mova_core.testing.recording ID FILE

Record once, look at what was recorded, and keep the file: a later change of a library then shows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mova_core.cards.resolve import usable_expert
from mova_core.errors import MovaError
from mova_core.experts.loading import expert_class
from mova_core.experts.protocol import VisionExpert
from mova_core.testing.pictures import SIZES, some_pictures

ROWS = 2_000
"""The most values kept of each stream, evenly spread over it: enough to notice any change, and small."""


def recorded_streams(expert: VisionExpert) -> dict[str, Tensor]:
    """What an expert makes of `some_pictures()`, as it is recorded."""
    return kept_values(expert.preprocess(some_pictures()))


def kept_values(streams: Tensor) -> dict[str, Tensor]:
    """By size of picture: values of its stream, at most `ROWS`, evenly spread, float32.

    Args:
        streams: of `some_pictures()`, one row each.
    """
    streams = streams.flatten(1)  # [b, values]
    step = max(1, -(-streams.shape[1] // ROWS))
    return {f"{w}x{h}": row[::step].clone() for (w, h), row in zip(SIZES, streams, strict=True)}


def record(id: str, file: Path) -> None:
    """Writes the streams of an installed expert, at the sizes of its card, to a safetensors file.

    Raises:
        MovaError: the expert is not installed or cannot be used.
    """
    card = usable_expert(id).card
    if card is None:
        raise MovaError("the expert has no card", value=id)
    with torch.device("meta"):  # weights do not matter
        expert = expert_class(card).from_config().bind(card)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(recorded_streams(expert), file)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m mova_core.testing.recording ID FILE")
    try:
        record(sys.argv[1], Path(sys.argv[2]))
    except MovaError as problem:
        sys.exit(f"error: {problem}")
