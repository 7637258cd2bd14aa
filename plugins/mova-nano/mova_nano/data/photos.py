"""Real photographs of scikit-image and scikit-learn, for questions that the base encoder can answer."""

from __future__ import annotations

import random
from functools import lru_cache
from importlib import util
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from mova_core.errors import ConfigError
from mova_nano.data.assets import Assets
from mova_nano.data.charts import Wordings
from mova_nano.data.scene import Canvas, Question, Scene
from mova_nano.data.words import say

TRAIN = (
    "astronaut.png",
    "camera.png",
    "coffee.png",
    "brick.png",
    "grass.png",
    "coins.png",
    "china.jpg",
    "moon.png",
)
TEST = ("chelsea.png", "rocket.jpg", "gravel.png", "flower.jpg", "hubble_deep_field.jpg")
"""Photographs that only held-out pictures are cut from."""

BRIGHT: Wordings = (
    (
        "Is the picture bright or dark?",
        "Would you call this image bright or dark?",
        "Is the photo dark or bright?",
    ),
    ("Bright or dark: how is the picture overall?", "Is the overall exposure bright or dark?"),
)
COLOURED: Wordings = (
    ("Is the picture in color or in gray?", "Is this a color image or a gray one?"),
    ("Does the picture have color, or is it gray?", "Color or gray: which is it?"),
)


@lru_cache(maxsize=2)
def _photos(split: str) -> tuple[Image.Image, ...]:
    folders = []
    for package, inside in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = util.find_spec(package)
        if spec is not None and spec.origin:
            folders.append(Path(spec.origin).parent / inside)
    names = TEST if split == "test" else TRAIN
    files = [folder / name for name in names for folder in folders if (folder / name).is_file()]
    if not files:
        raise ConfigError(
            "no sample photographs found",
            expected="scikit-image and scikit-learn",
            hint="Run: pip install scikit-image scikit-learn",
        )
    return tuple(Image.open(f).convert("RGB") for f in files)


def draw(rng: random.Random, split: str, assets: Assets) -> Scene:
    """A random crop of a photograph, made clearly bright or dark, in colour or gray."""
    del assets
    photo = rng.choice(_photos(split))
    side = int(min(photo.size) * rng.uniform(0.5, 1.0))
    x, y = rng.randint(0, photo.width - side), rng.randint(0, photo.height - side)
    crop = photo.crop((x, y, x + side, y + side)).resize((512, 512), Image.Resampling.BICUBIC)
    gray = rng.random() < 0.5
    crop = crop.convert("L").convert("RGB") if gray else ImageEnhance.Color(crop).enhance(1.6)
    bright = rng.random() < 0.5
    mean = max(1.0, sum(crop.convert("L").resize((16, 16)).tobytes()) / 256)
    crop = ImageEnhance.Brightness(crop).enhance(
        (rng.uniform(165, 200) if bright else rng.uniform(35, 60)) / mean
    )
    if _spread(crop) < 12 and not gray:
        gray = True
    canvas = Canvas((512, 512), (0, 0, 0))
    canvas.image.paste(crop, (0, 0))
    canvas.mark_all(("photo", "bright" if bright else "dark", "gray" if gray else "color"))
    return Scene(
        canvas.image,
        "photo",
        canvas.marks,
        (
            Question(say(BRIGHT, split, rng), "bright" if bright else "dark", "base", ()),
            Question(say(COLOURED, split, rng), "gray" if gray else "color", "base", ()),
        ),
    )


def _spread(image: Image.Image) -> float:
    """Mean distance between the largest and the smallest channel, 0-255: how colourful the picture is."""
    pixels = np.asarray(image.resize((16, 16)), dtype=np.float32)  # [16, 16, 3]
    return float(np.ptp(pixels, axis=2).mean())
