"""Pictures of one colour, with questions about it: samples for training and evaluation."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mova_core.training.samples import Sample

COLOURS = {"red": (220, 30, 20), "green": (20, 200, 40), "blue": (30, 40, 210)}
FUSED = (2, 2)


def sample(index: int) -> Sample:
    """Half of the picture has the colour, the other half is grey; every fourth one needs no expert."""
    rng = random.Random(index)
    colour = list(COLOURS)[index % 3]
    left = rng.random() < 0.5
    pixels = np.full((16, 16, 3), 100 + index % 50, dtype=np.uint8)
    pixels[:, slice(0, 8) if left else slice(8, 16)] = COLOURS[colour]
    share = np.zeros(FUSED, dtype=np.float32)
    share[:, 0 if left else 1] = 1.0
    turns = (("What colour is it?", colour), ("Where is it?", "left" if left else "right"))
    experts = () if index % 4 == 3 else (f"tiny-{colour}",)
    return Sample(Image.fromarray(pixels), turns, experts, {colour: share}, task=colour, plain=index % 2 == 0)


def training_set(size: int) -> list[Sample]:
    """The factory that recipes name."""
    return [sample(index) for index in range(size)]


def held_out(tasks: Sequence[str] = (), count: int = 2) -> list[Sample]:
    """For each colour, `count` samples."""
    wanted = tasks or tuple(COLOURS)
    return [sample(3 * number + list(COLOURS).index(task)) for task in wanted for number in range(count)]
