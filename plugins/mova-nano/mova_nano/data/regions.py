"""Maps of coloured areas with clear outlines: blobs on a ground, or a plane cut into cells."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mova_nano.data.assets import Assets
from mova_nano.data.charts import Wordings
from mova_nano.data.scene import Canvas, Question, Scene
from mova_nano.data.words import COLOURS, GROUNDS, NUMBERS, say, shade

EXPERT = ("nano-regions",)

LARGEST: Wordings = (
    (
        "Which region is the largest?",
        "What colour covers the most area?",
        "Which area is the biggest?",
        "Which colour fills the most space?",
    ),
    ("Of what colour is the largest region?", "Which colour has the greatest extent?"),
)
SMALLEST: Wordings = (
    ("Which region is the smallest?", "What colour covers the least area?", "Which area is the tiniest?"),
    ("Of what colour is the smallest region?", "Which colour has the least extent?"),
)
LARGER: Wordings = (
    (
        "Is {a} larger than {b}?",
        "Does the {a} area cover more than the {b} one?",
        "Is the {a} region bigger than {b}?",
    ),
    ("Is the {a} one bigger than the {b} one?", "Does {a} exceed {b} in size?"),
)
COUNT: Wordings = (
    ("How many regions are there?", "Count the coloured areas.", "How many areas do you see?"),
    ("What is the number of regions?", "How many separate areas are there?"),
)
SHAPE: Wordings = (
    ("Is the outline of the {a} region round or angular?", "Does {a} have a round or an angular outline?"),
    (
        "Round or angular: the border of {a}?",
        "Is the {a} area bounded by curves or corners? Say round or angular.",
    ),
)


def draw(rng: random.Random, split: str, assets: Assets) -> Scene:
    """Two to five areas of clearly different size (each at least a third larger than the next)."""
    del assets
    width, height = rng.choice([(512, 512), (512, 400), (400, 512)])
    ground = shade(GROUNDS[rng.choice(["white", "gray", "green", "yellow", "black"])], rng, 10)
    canvas = Canvas((width, height), ground)
    names = rng.sample(list(COLOURS), rng.randint(2, 5))
    shapes = _place(rng, (width, height), len(names))
    names = names[: len(shapes)]
    owner = np.zeros((height, width), dtype=np.uint8)
    rounds = []
    for i, (cx, cy, radius) in enumerate(shapes):
        mask, is_round = _blob(rng, (width, height), cx, cy, radius)
        owner[np.asarray(mask) > 127] = i + 1
        rounds.append(is_round)
    areas = [int((owner == i + 1).sum()) for i in range(len(shapes))]
    texture = _grain(rng, (width, height)) if rng.random() < 0.6 else None
    for i, name in enumerate(names):
        mask = Image.fromarray(((owner == i + 1) * 255).astype(np.uint8))
        fill = Image.new("RGB", (width, height), shade(COLOURS[name], rng, 16))
        if texture is not None:
            fill = Image.blend(fill, Image.merge("RGB", [texture] * 3), 0.22)
        canvas.image.paste(fill, (0, 0), mask)
        if rng.random() < (0.7 if split == "test" else 0.3):
            edge = mask.filter(ImageFilter.FIND_EDGES).filter(ImageFilter.MaxFilter(3))
            canvas.image.paste((25, 25, 25), (0, 0), edge)
        rank = ("largest",) if areas[i] == max(areas) else ("smallest",) if areas[i] == min(areas) else ()
        canvas.mark_mask((name, "region", "round" if rounds[i] else "angular", *rank), mask)
    canvas.mark_rest((NUMBERS[len(names)],))
    canvas.mark_all(("map",))
    return Scene(canvas.image, "regions", canvas.marks, _questions(rng, split, names, areas, rounds))


def _questions(
    rng: random.Random, split: str, names: list[str], areas: list[int], rounds: list[bool]
) -> tuple[Question, ...]:
    def ask(wordings: Wordings, answer: str, plain: bool = True, **values: str) -> Question:
        return Question(say(wordings, split, rng, **values), answer, "regions", EXPERT, plain)

    a, b = rng.sample(range(len(names)), 2)
    return (
        ask(LARGEST, names[areas.index(max(areas))]),
        ask(SMALLEST, names[areas.index(min(areas))]),
        ask(LARGER, "yes" if areas[a] > areas[b] else "no", plain=False, a=names[a], b=names[b]),
        ask(COUNT, NUMBERS[len(names)]),
        ask(SHAPE, "round" if rounds[a] else "angular", a=names[a]),
    )


def _place(rng: random.Random, size: tuple[int, int], count: int) -> list[tuple[float, float, float]]:
    """Centres and radii (pixels) of discs that do not touch; fewer than `count` where no room was found."""
    radius = min(size) * rng.uniform(0.24, 0.32)
    placed: list[tuple[float, float, float]] = []
    for _ in range(count):
        for _attempt in range(60):
            x, y = rng.uniform(radius, size[0] - radius), rng.uniform(radius, size[1] - radius)
            if all(math.hypot(x - px, y - py) > 0.95 * (radius + pr) + 6 for px, py, pr in placed):
                placed.append((x, y, radius))
                break
        radius *= rng.uniform(0.68, 0.8)
    return placed if len(placed) >= 2 else _place(rng, size, count)


def _grain(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Gray noise of a random strength."""
    noise = np.random.default_rng(rng.getrandbits(32)).normal(128, rng.uniform(5, 50), (size[1], size[0]))
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def _blob(
    rng: random.Random, size: tuple[int, int], cx: float, cy: float, radius: float
) -> tuple[Image.Image, bool]:
    """A wavy round outline, or a polygon of three to six corners; its area stays close to a disc's."""
    is_round = rng.random() < 0.5
    mask = Image.new("L", size)
    if is_round:
        phases = [rng.uniform(0, 2 * math.pi) for _ in range(3)]
        steps = [2 * math.pi * t / 72 for t in range(72)]
        reach = [
            radius * (0.88 + 0.06 * sum(math.sin((k + 2) * t + p) for k, p in enumerate(phases)))
            for t in steps
        ]
        points = [(cx + r * math.cos(t), cy + r * math.sin(t)) for t, r in zip(steps, reach, strict=True)]
    else:
        corners = rng.randint(3, 6)
        turn = rng.uniform(0, 2 * math.pi)
        stretch = {3: 1.32, 4: 1.1, 5: 1.02, 6: 0.97}[corners]
        angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
        points = [
            (cx + radius * stretch * 0.9 * math.cos(t), cy + radius * stretch * 0.9 * math.sin(t))
            for t in angles
        ]
    ImageDraw.Draw(mask).polygon(points, fill=255)
    return mask, is_round
