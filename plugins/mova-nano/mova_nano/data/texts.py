"""Signs, posters and receipts, printed in a closed lexicon."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

from mova_nano.data.assets import Assets
from mova_nano.data.charts import COUNT, MAXIMUM, Wordings
from mova_nano.data.scene import Canvas, Question, Scene
from mova_nano.data.words import COLOURS, GOODS, GROUNDS, NUMBERS, SIGN_WORDS, ink_for, say, shade

EXPERT = ("nano-text",)

READ: Wordings = (
    ("What does the sign say?", "What is written here?", "Read the word.", "Which word is printed?"),
    ("What text do you see?", "Which word can be read here?"),
)
TOP: Wordings = (
    ("What is the first word?", "Which word is at the top?", "Read the top line."),
    ("What does the upper line say?", "Which word comes first?"),
)
BOTTOM: Wordings = (
    ("What is the last word?", "Which word is at the bottom?", "Read the bottom line."),
    ("What does the lowest line say?", "Which word comes last?"),
)
CONTAINS: Wordings = (
    ("Is the word {word} printed here?", "Does it say {word}?", "Can you read {word} in the picture?"),
    ("Does the word {word} occur in the text?", "Is {word} one of the words?"),
)
PRICE: Wordings = (
    ("How much is the {item}?", "What does the {item} cost?", "What is the price of the {item}?"),
    ("What was paid for the {item}?", "Which amount stands next to {item}?"),
)
DEAREST: Wordings = (
    ("Which item costs the most?", "What is the most expensive item?", "Which article is the dearest?"),
    ("For which item was most paid?", "What is the priciest thing on the receipt?"),
)


def draw(rng: random.Random, split: str, assets: Assets) -> Scene:
    """A sign with one word, a poster with two or three, or a receipt."""
    return rng.choice([_sign, _sign, _receipt])(rng, split, assets)


def _ask(
    rng: random.Random, split: str, wordings: Wordings, answer: str, plain: bool = True, **values: str
) -> Question:
    return Question(say(wordings, split, rng, **values), answer, "text", EXPERT, plain)


def _print(
    canvas: Canvas,
    text: str,
    font: object,
    at: tuple[float, float],
    ink: tuple[int, int, int],
    *,
    tilt: float = 0.0,
    words: tuple[str, ...] = (),
) -> None:
    """Prints `text` centred at `at`, turned by `tilt` degrees, and marks its cells."""
    x0, y0, x1, y1 = canvas.pen.textbbox((0, 0), text, font=font)  # type: ignore[arg-type]
    mask = Image.new("L", (int(x1 - x0) + 4, int(y1 - y0) + 4))
    ImageDraw.Draw(mask).text((2 - x0, 2 - y0), text, font=font, fill=255)  # type: ignore[arg-type]
    mask = mask.rotate(tilt, expand=True, resample=Image.Resampling.BICUBIC)
    left, top = int(at[0] - mask.width / 2), int(at[1] - mask.height / 2)
    canvas.image.paste(ink, (left, top, left + mask.width, top + mask.height), mask)
    canvas.mark(words or (text.lower(),), (left, top, left + mask.width, top + mask.height))


def _sign(rng: random.Random, split: str, assets: Assets) -> Scene:
    width, height = rng.choice([(512, 512), (512, 384), (512, 320), (400, 512)])
    ground = shade(GROUNDS[rng.choice(list(GROUNDS))], rng, 6)
    if rng.random() < 0.35:
        ground = shade(COLOURS[rng.choice(["red", "green", "blue", "brown", "purple"])], rng, 20)
    canvas = Canvas((width, height), shade(ground, rng, 40))
    canvas.pen.rounded_rectangle(
        (16, 16, width - 16, height - 16),
        radius=rng.randint(0, 40),
        fill=ground,
        outline=ink_for(ground, rng) if rng.random() < 0.4 else None,
        width=4,
    )
    words = rng.sample(SIGN_WORDS, rng.choice([1, 1, 2, 3]))
    ink = ink_for(ground, rng)
    case = rng.choice([str.upper, str.title, str.lower])
    size = rng.randint(40, 76)
    font = assets.font(rng, size, split)
    longest = max(canvas.pen.textlength(case(w), font=font) for w in words)
    if longest > width - 60:
        font = assets.font(rng, max(24, int(size * (width - 80) / longest)), split)
    gap = (height - 60) / len(words)
    for i, word in enumerate(words):
        place = ("top",) if len(words) > 1 and i == 0 else ("bottom",) if i and i == len(words) - 1 else ()
        _print(
            canvas,
            case(word),
            font,
            (width / 2, 30 + gap * (i + 0.5)),
            ink,
            tilt=rng.uniform(-8, 8),
            words=(word, *place),
        )
    canvas.mark_all(("sign",))
    other = rng.choice([w for w in SIGN_WORDS if w not in words])
    present = rng.random() < 0.5
    questions = [
        _ask(rng, split, CONTAINS, "yes" if present else "no", word=rng.choice(words) if present else other)
    ]
    if len(words) == 1:
        questions += [_ask(rng, split, READ, words[0]) for _ in range(2)]
    else:
        questions += [_ask(rng, split, TOP, words[0]), _ask(rng, split, BOTTOM, words[-1])]
    return Scene(canvas.image, "sign", canvas.marks, tuple(questions))


def _receipt(rng: random.Random, split: str, assets: Assets) -> Scene:
    width, height = rng.choice([(384, 512), (420, 512), (512, 512)])
    ground = shade((244, 243, 238), rng, 10)
    canvas = Canvas((width, height), shade((120, 110, 100), rng, 60))
    canvas.pen.rectangle((20, 12, width - 20, height - 12), fill=ground)
    ink = ink_for(ground, rng)
    items = rng.sample(GOODS, rng.randint(3, 5))
    prices = rng.sample(range(1, 21), len(items))
    font = assets.font(rng, rng.randint(30, 38), split)
    title = assets.font(rng, rng.randint(26, 34), split)
    canvas.pen.text(
        (width / 2, 44), rng.choice(["RECEIPT", "MARKET", "SHOP", "Bill"]), font=title, fill=ink, anchor="mm"
    )
    gap = (height - 110) / len(items)
    for i, (item, price) in enumerate(zip(items, prices, strict=True)):
        y = 84 + gap * (i + 0.5)
        best = ("highest",) if price == max(prices) else ()
        item_width = canvas.pen.textlength(item, font=font)
        _print(canvas, item, font, (40 + item_width / 2, y), ink, words=(item, *best))
        text = str(price)
        price_width = canvas.pen.textlength(text, font=font)
        _print(canvas, text, font, (width - 44 - price_width / 2, y), ink, words=(NUMBERS[price], *best))
    canvas.mark_rest((NUMBERS[len(items)],))
    canvas.mark_all(("receipt",))
    asked = rng.randrange(len(items))
    return Scene(
        canvas.image,
        "receipt",
        canvas.marks,
        (
            _ask(rng, split, PRICE, NUMBERS[prices[asked]], item=items[asked]),
            _ask(rng, split, MAXIMUM, NUMBERS[max(prices)], plain=False),
            _ask(rng, split, DEAREST, items[prices.index(max(prices))]),
            _ask(rng, split, COUNT, NUMBERS[len(items)], parts="items"),
        ),
    )
