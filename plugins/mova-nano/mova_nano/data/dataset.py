"""Seeded pictures with questions: the same split, kind and index always give the same scene."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from mova_core.errors import ConfigError
from mova_nano.data import charts, medical, objects, photos, regions, texts
from mova_nano.data.assets import Assets
from mova_nano.data.charts import Wordings
from mova_nano.data.scene import Question, Scene
from mova_nano.data.words import say

KINDS: Mapping[str, Callable[[random.Random, str, Assets], Scene]] = {
    "text": texts.draw,
    "chart": charts.draw,
    "objects": objects.draw,
    "regions": regions.draw,
    "medical": medical.draw,
    "base": photos.draw,
}
"""Generators by task family."""

SPLITS = ("train", "validation", "test")

KIND: Wordings = (
    (
        "What kind of picture is this?",
        "What type of image do you see?",
        "Is this a photo, a chart or something else?",
        "What kind of image is that?",
        "Tell me the type of this picture.",
        "How would you classify this image?",
        "Which type of picture do you have here?",
        "Is this a drawing, a scan or a map?",
    ),
    ("What sort of image is it?", "Which kind of picture is shown?"),
)
_KIND_NAMES = {"objects": "drawing", "regions": "map", "brain": "scan"}


def default_assets() -> Assets:
    """Sprites of this package, fonts of the system."""
    return Assets(sprites=Path(__file__).resolve().parents[1] / "assets")


def scene(kind: str, split: str, index: int, assets: Assets, seed: int = 0) -> Scene:
    """The picture number `index` of a kind.

    Args:
        kind: a key of `KINDS`.
        split: "train", "validation" (training looks, other numbers) or "test" (unseen looks and wordings).
        index: which picture.
        assets: fonts and sprites.
        seed: another seed gives other pictures.

    Raises:
        ConfigError: for an unknown kind or split.
    """
    if kind not in KINDS:
        raise ConfigError("unknown kind of picture", value=kind, expected="one of " + ", ".join(KINDS))
    if split not in SPLITS:
        raise ConfigError("unknown split", value=split, expected="one of " + ", ".join(SPLITS))
    rng = random.Random(f"{seed}/{split}/{kind}/{index}")
    drawn = KINDS[kind](rng, split, assets)
    asked = Question(say(KIND, split, rng), _KIND_NAMES.get(drawn.kind, drawn.kind), "base", ())
    return replace(drawn, questions=(*drawn.questions, asked))
