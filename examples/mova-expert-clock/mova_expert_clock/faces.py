"""Draws clock faces in many styles, with the time they show."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

STEP = 5
"""Minutes between the times that are told apart."""

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Face:
    """A drawn clock.

    Args:
        image: RGB.
        hour: 0 to 11, the hour that has begun.
        minute: 0 to 55, in steps of `STEP`.
    """

    image: Image.Image
    hour: int
    minute: int


def draw_face(seed: str, side: int = 128) -> Face:
    """A clock face; the same seed always gives the same one.

    Args:
        seed: of everything about it.
        side: of the picture in pixels.
    """
    rng = random.Random(seed)
    hour, minute = rng.randrange(12), rng.randrange(0, 60, STEP)
    big = 2 * side  # drawn at twice the size, so that lines come out smooth
    ground, dial = _colour(rng), _colour(rng)
    ink = _contrast(dial, rng)
    image = Image.new("RGB", (big, big), ground)
    pen = ImageDraw.Draw(image)
    radius = big * rng.uniform(0.32, 0.47)
    slack = big / 2 - radius
    centre = (big / 2 + rng.uniform(-slack, slack) * 0.8, big / 2 + rng.uniform(-slack, slack) * 0.8)
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    rim = rng.randint(0, 6)
    if rng.random() < 0.8:
        pen.ellipse(box, fill=dial, outline=ink if rim else None, width=rim)
    else:
        pen.rounded_rectangle(
            box, radius=rng.randint(0, 40), fill=dial, outline=ink if rim else None, width=rim
        )
    _marks(pen, rng, centre, radius, ink)
    turn = (hour % 12 + minute / 60) / 12
    length = rng.uniform(0.42, 0.56)
    width = rng.randint(5, 11)
    _hand(pen, centre, turn, radius * length, ink, width)
    _hand(pen, centre, minute / 60, radius * rng.uniform(0.74, 0.92), ink, max(3, width - rng.randint(2, 5)))
    if rng.random() < 0.3:  # a hand for the seconds, which says nothing of hour and minute
        _hand(pen, centre, rng.random(), radius * 0.85, _colour(rng), 2)
    hub = radius * rng.uniform(0.03, 0.08)
    pen.ellipse((x - hub, y - hub, x + hub, y + hub), fill=ink)
    image = image.rotate(rng.uniform(-4, 4), Image.Resampling.BILINEAR, fillcolor=ground)
    return Face(image.resize((side, side), Image.Resampling.BOX), hour, minute)


def _marks(
    pen: ImageDraw.ImageDraw, rng: random.Random, centre: tuple[float, float], radius: float, ink: Colour
) -> None:
    """Ticks, numerals, both or neither."""
    style = rng.choice(["ticks", "minutes", "numerals", "both", "none"])
    if style in ("ticks", "minutes", "both"):
        for tick in range(0, 60, 1 if style == "minutes" else 5):
            inner = 0.88 if tick % 5 == 0 else 0.94
            pen.line((_at(centre, tick / 60, radius * inner), _at(centre, tick / 60, radius * 0.98)), ink, 3)
    if style in ("numerals", "both"):
        for numeral in range(1, 13):
            place = _at(centre, numeral / 12, radius * 0.76)
            pen.text(place, str(numeral), fill=ink, anchor="mm", font_size=radius * 0.2)


def _hand(
    pen: ImageDraw.ImageDraw,
    centre: tuple[float, float],
    turn: float,
    length: float,
    ink: Colour,
    width: int,
) -> None:
    pen.line((_at(centre, turn, -0.12 * length), _at(centre, turn, length)), ink, width)


def _at(centre: tuple[float, float], turn: float, distance: float) -> tuple[float, float]:
    """The point `distance` away from the centre, `turn` of a circle clockwise from the top."""
    angle = 2 * math.pi * turn
    return centre[0] + distance * math.sin(angle), centre[1] - distance * math.cos(angle)


def _colour(rng: random.Random) -> Colour:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _contrast(ground: Colour, rng: random.Random) -> Colour:
    """Dark on light or light on dark."""
    shade = rng.randrange(60)
    value = shade if sum(ground) > 380 else 255 - shade
    return value, value, value
