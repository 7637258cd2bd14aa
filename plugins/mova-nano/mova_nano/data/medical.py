"""Slices of the MNI ICBM-152 average brain (T1) as nilearn ships it: plane, level and tissue at a cross."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mova_nano.data.assets import Assets
from mova_nano.data.charts import Wordings
from mova_nano.data.scene import Canvas, Question, Scene
from mova_nano.data.words import COLOURS, say

EXPERT = ("nano-medical",)
PLANES = ("sagittal", "coronal", "axial")
LEVELS = (("side", "middle", "side"), ("back", "middle", "front"), ("low", "middle", "high"))
"""Names of the thirds of the brain along x (the two sides look alike), y (posterior to anterior), z (inferior
to superior)."""
OPTIONS = ("side or middle", "back, middle or front", "low, middle or high")

PLANE: Wordings = (
    (
        "Which plane is this slice?",
        "Is this slice axial, coronal or sagittal?",
        "In which plane was this brain cut?",
    ),
    (
        "Name the orientation of this scan: axial, coronal or sagittal.",
        "What is the viewing plane of this brain image?",
    ),
)
LEVEL: Wordings = (
    ("Is this slice from the {options} part of the brain?", "At which level is this slice: {options}?"),
    ("Where in the head does the slice lie: {options}?", "{options}: where was the brain cut?"),
)
TISSUE: Wordings = (
    (
        "Which tissue is at the cross: white, gray or fluid?",
        "Is the cross on white matter, gray matter or fluid?",
    ),
    ("What does the cross mark: white matter, gray matter or fluid?", "Name the tissue under the cross."),
)


@dataclass(frozen=True, slots=True)
class _Brain:
    t1: NDArray[np.float32]
    tissue: NDArray[np.uint8]
    lower: tuple[int, int, int]
    upper: tuple[int, int, int]


@lru_cache(maxsize=1)
def _brain() -> _Brain:
    """Volumes at 2 mm; tissue 0 outside, 1 fluid, 2 gray, 3 white (the most probable one)."""
    from nilearn import datasets

    t1 = np.asarray(datasets.load_mni152_template(resolution=2).get_fdata(), dtype=np.float32)
    gray = np.asarray(datasets.load_mni152_gm_template(resolution=2).get_fdata(), dtype=np.float32)
    white = np.asarray(datasets.load_mni152_wm_template(resolution=2).get_fdata(), dtype=np.float32)
    inside = t1 > 0.02
    tissue = np.zeros(t1.shape, dtype=np.uint8)
    tissue[inside & (gray + white < 0.25)] = 1
    tissue[inside & (gray > 0.6)] = 2
    tissue[inside & (white > 0.6)] = 3
    where = np.argwhere(tissue > 0)
    low, high = where.min(0), where.max(0)
    return _Brain(t1 / t1.max(), tissue, tuple(map(int, low)), tuple(map(int, high)))  # type: ignore[arg-type]


def draw(rng: random.Random, split: str, assets: Assets) -> Scene:
    """One slice under random contrast, scale and turn; every fifth position of an axis is kept for tests."""
    del assets
    brain = _brain()
    axis = rng.randrange(3)
    low, high = brain.lower[axis], brain.upper[axis]
    span = high - low
    held_out = {p for p in range(low, high) if p % 5 == 2}
    allowed = [p for p in range(low + span // 8, high - span // 8) if (p in held_out) == (split == "test")]
    position = rng.choice(allowed)
    t1 = np.rot90(np.take(brain.t1, position, axis=axis))
    tissue = np.rot90(np.take(brain.tissue, position, axis=axis))
    gray = np.clip(t1, 0, 1) ** rng.uniform(0.7, 1.4) * rng.uniform(0.8, 1.15)
    gray = np.clip(
        gray + np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(0, 0.04), gray.shape), 0, 1
    )
    side, turn = int(rng.uniform(430, 512)), rng.uniform(-10, 10)
    scale = side / max(gray.shape)
    size = (int(gray.shape[1] * scale), int(gray.shape[0] * scale))
    picture = Image.fromarray((gray * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    labels = Image.fromarray(np.ascontiguousarray(tissue)).resize(size, Image.Resampling.NEAREST)
    picture = picture.rotate(turn, Image.Resampling.BICUBIC)
    labels = labels.rotate(turn, Image.Resampling.NEAREST)
    canvas = Canvas((512, 512), (0, 0, 0))
    offset = ((512 - size[0]) // 2, (512 - size[1]) // 2)
    canvas.image.paste(picture.convert("RGB"), offset)
    third = min(2, 3 * (position - low) // max(1, span))
    name = _cross(canvas, rng, np.asarray(labels), offset)
    canvas.mark_all(("brain", PLANES[axis], LEVELS[axis][third]))
    return Scene(canvas.image, "brain", canvas.marks, _questions(rng, split, axis, third, name))


def _cross(canvas: Canvas, rng: random.Random, labels: NDArray[np.uint8], offset: tuple[int, int]) -> str:
    """Draws a cross inside one tissue (all of its 7x7 pixels, where there are such) and names the tissue."""
    code = rng.choice([c for c in (1, 2, 3) if (labels == c).any()])
    same = (labels == code).astype(np.uint8)
    inner = np.asarray(
        Image.fromarray(same * 255).resize((same.shape[1] // 7, same.shape[0] // 7), Image.Resampling.BOX)
    )
    spots = np.argwhere(inner == inner.max())
    row, column = spots[rng.randrange(len(spots))]
    x, y = int(column) * 7 + 3 + offset[0], int(row) * 7 + 3 + offset[1]
    colour = COLOURS[rng.choice(["red", "green", "yellow"])]
    for dx, dy in ((1, 0), (0, 1)):
        for sign in (-1, 1):
            near, far = 7 * sign, 24 * sign
            canvas.pen.line((x + dx * near, y + dy * near, x + dx * far, y + dy * far), fill=colour, width=4)
    name = ("fluid", "gray", "white")[code - 1]
    canvas.mark((name, "cross"), (x - 20, y - 20, x + 20, y + 20))
    return name


def _questions(rng: random.Random, split: str, axis: int, third: int, tissue: str) -> tuple[Question, ...]:
    def ask(wordings: Wordings, answer: str, **values: str) -> Question:
        return Question(say(wordings, split, rng, **values), answer, "medical", EXPERT)

    return (
        ask(PLANE, PLANES[axis]),
        ask(LEVEL, LEVELS[axis][third], options=OPTIONS[axis]),
        ask(TISSUE, tissue),
        ask(TISSUE, tissue),
    )
