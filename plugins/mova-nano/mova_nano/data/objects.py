"""Scenes of everyday objects, pasted without overlap; tests and training share no style of sprites."""

from __future__ import annotations

import random

from PIL import Image, ImageEnhance, ImageOps

from mova_nano.data.assets import Assets
from mova_nano.data.charts import Wordings
from mova_nano.data.scene import Canvas, Question, Scene
from mova_nano.data.words import GROUNDS, NUMBERS, THINGS, plural, say, shade

EXPERT = ("nano-objects",)
STYLES = {"train": ("noto", "fluent"), "test": ("twemoji",)}

HOW_MANY: Wordings = (
    ("How many {things} are there?", "Count the {things}.", "How many {things} do you see?"),
    ("What is the number of {things}?", "How many {things} can be found here?"),
)
PRESENT: Wordings = (
    ("Is there {a} in the picture?", "Do you see {a}?", "Does the picture show {a}?"),
    ("Can {a} be found here?", "Is {a} among the objects?"),
)
WHERE: Wordings = (
    ("What is in the {place}?", "Which object is in the {place}?", "What do you see in the {place}?"),
    ("What can be found in the {place}?", "Name the object in the {place}."),
)
SIDE: Wordings = (
    (
        "Is the {x} to the left or to the right of the {y}?",
        "On which side of the {y} is the {x}, left or right?",
    ),
    (
        "Relative to the {y}, is the {x} left or right?",
        "Left or right: where is the {x} as seen from the {y}?",
    ),
)
WHAT: Wordings = (
    ("What is shown here?", "Which object is this?", "What is in the picture?"),
    ("Name the thing in the picture.", "What do you see here?"),
)


def draw(rng: random.Random, split: str, assets: Assets) -> Scene:
    """One to six objects on a plain or graded ground, placed on the cells of a loose 3x3 grid."""
    width, height = rng.choice([(512, 512), (512, 400), (440, 512)])
    canvas = Canvas((width, height), GROUNDS["white"])
    ground = shade(GROUNDS[rng.choice(["white", "gray", "blue", "green", "yellow", "pink"])], rng, 10)
    grade = Image.linear_gradient("L").resize((width, height)).rotate(rng.choice([0, 180]))
    canvas.image.paste(ImageOps.colorize(grade, ground, shade(ground, rng, 45)), (0, 0))
    style = rng.choice(STYLES["test" if split == "test" else "train"])
    total = rng.choice([1, 2, 3, 4, 5, 6])
    kinds = rng.sample(THINGS, rng.randint(1, min(3, total)))
    things = kinds + [rng.choice(kinds) for _ in range(total - len(kinds))]
    slots = rng.sample([(c, r) for r in range(3) for c in range(3)], total)
    places: dict[str, list[tuple[int, int]]] = {}
    for thing, (column, row) in zip(things, slots, strict=True):
        places.setdefault(thing, []).append((column, row))
    for thing, cells in places.items():
        for column, row in cells:
            side = int(min(width, height) / 3 * rng.uniform(0.72, 0.98))
            x = int(width / 3 * (column + 0.5) - side / 2 + rng.uniform(-8, 8))
            y = int(height / 3 * (row + 0.5) - side / 2 + rng.uniform(-8, 8))
            sprite = assets.sprite(thing, style).rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC)
            if rng.random() < 0.5:
                sprite = ImageOps.mirror(sprite)
            if (
                split == "train" and rng.random() < 0.4
            ):  # two styles are few: loosen what is tied to their colours
                sprite = ImageEnhance.Color(sprite).enhance(rng.uniform(0.1, 1.6))
                sprite = ImageEnhance.Contrast(sprite).enhance(rng.uniform(0.6, 1.3))
            sprite = sprite.resize((side, side), Image.Resampling.BICUBIC)
            canvas.image.paste(sprite, (x, y), sprite)
            words = (
                thing,
                NUMBERS[len(cells)],
                ("left", "center", "right")[column],
                ("top", "middle", "bottom")[row],
            )
            inset = side * 0.15
            canvas.mark(words, (x + inset, y + inset, x + side - inset, y + side - inset))
    canvas.mark_all(("objects",))
    return Scene(canvas.image, "objects", canvas.marks, tuple(_questions(rng, split, places)))


def _questions(rng: random.Random, split: str, places: dict[str, list[tuple[int, int]]]) -> list[Question]:
    def ask(wordings: Wordings, answer: str, plain: bool = True, **values: str) -> Question:
        return Question(say(wordings, split, rng, **values), answer, "objects", EXPERT, plain)

    thing = rng.choice(list(places))
    present = rng.random() < 0.5
    subject = thing if present else rng.choice([t for t in THINGS if t not in places])
    article = ("an " if subject[0] in "aeiou" else "a ") + subject
    questions = [
        ask(HOW_MANY, NUMBERS[len(places[thing])], things=plural(thing)),
        ask(PRESENT, "yes" if present else "no", a=article),
    ]
    single = {t: cells[0] for t, cells in places.items() if len(cells) == 1}
    corners = {(0, 0): "top left", (2, 0): "top right", (0, 2): "bottom left", (2, 2): "bottom right"}
    found = [(t, corners[cell]) for t, cells in places.items() for cell in cells if cell in corners]
    if found:
        what, place = rng.choice(found)
        questions.append(ask(WHERE, what, plain=False, place=place))
    pairs = [(a, b) for a in single for b in single if single[a][0] != single[b][0]]
    if pairs:
        x, y = rng.choice(pairs)
        questions.append(ask(SIDE, "left" if single[x][0] < single[y][0] else "right", x=x, y=y))
    if len(places) == 1:
        questions.append(ask(WHAT, thing, plain=False))
    return questions
