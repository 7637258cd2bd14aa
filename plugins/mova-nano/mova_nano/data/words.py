"""The closed vocabulary of the drawn pictures: colours, things, printed words, numbers."""

from __future__ import annotations

import random


def _words(text: str) -> list[str]:
    return text.split()


COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 98, 200),
    "yellow": (240, 214, 40),
    "orange": (255, 134, 20),
    "purple": (140, 60, 180),
    "pink": (245, 140, 195),
    "brown": (130, 82, 50),
}
"""Colours of drawn things, sRGB 0-255."""

GROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (252, 252, 252),
    "black": (18, 18, 20),
    "gray": (150, 150, 152),
    "blue": (198, 219, 244),
    "green": (206, 236, 206),
    "yellow": (252, 245, 200),
    "pink": (250, 222, 230),
}
"""Background colours (pale, but for black and gray) under the name one would give them."""

NUMBERS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
"""Number words; the index is the value."""

THINGS = _words(
    "apple banana bear bell bicycle bus butterfly camera carrot cat chair cow dog duck elephant fish "
    "frog guitar hammer horse key lion mushroom owl pear pencil penguin pig pizza rabbit robot rocket "
    "snake spider star strawberry tomato train umbrella whale"
)
"""Objects of the sprite sheets, in sheet order."""

SIGN_WORDS = _words(
    "open closed exit stop sale coffee hotel bank taxi danger school museum park beach library market "
    "police post office street garden winter summer music water paper silver golden happy quiet travel "
    "market station airport bridge castle island river forest mountain morning evening friday monday "
    "april august private welcome"
)
"""Words printed on signs, posters and as chart titles."""

GOODS = _words(
    "bread milk cheese butter coffee tea sugar rice soup salad chicken beef juice wine cake soap paper "
    "candle honey pepper onion garlic lemon salt"
)
"""Items printed on receipts."""

SIGN_WORDS = list(dict.fromkeys(SIGN_WORDS))


def plural(thing: str) -> str:
    """The plural of one of `THINGS`."""
    special = {
        "butterfly": "butterflies",
        "fish": "fish",
        "bus": "buses",
        "strawberry": "strawberries",
        "tomato": "tomatoes",
    }
    return special.get(thing, thing + "s")


def shade(colour: tuple[int, int, int], rng: random.Random, spread: int = 18) -> tuple[int, int, int]:
    """The colour, moved by up to `spread` in each channel."""
    r, g, b = (min(255, max(0, c + rng.randint(-spread, spread))) for c in colour)
    return r, g, b


def ink_for(ground: tuple[int, int, int], rng: random.Random) -> tuple[int, int, int]:
    """A text colour that is readable on `ground`."""
    dark = sum(ground) < 380
    base = rng.randint(215, 255) if dark else rng.randint(0, 60)
    return shade((base, base, base), rng, 14)


def say(
    wordings: tuple[tuple[str, ...], tuple[str, ...]], split: str, rng: random.Random, **values: str
) -> str:
    """One wording of a question: from the first set for training, from the second when `split` is "test"."""
    return rng.choice(wordings[1] if split == "test" else wordings[0]).format(**values)
