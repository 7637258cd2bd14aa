"""Bar, line and pie charts in many styles; values lie on a fixed scale of one to ten."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from mova_nano.data.assets import Assets
from mova_nano.data.scene import Canvas, Question, Scene
from mova_nano.data.words import COLOURS, GROUNDS, NUMBERS, SIGN_WORDS, ink_for, say, shade

EXPERT = ("nano-chart",)
Wordings = tuple[tuple[str, ...], tuple[str, ...]]

HIGHEST: Wordings = (
    (
        "Which colour is the highest bar?",
        "What colour has the tallest bar?",
        "Which bar is the highest?",
        "Name the colour of the longest bar.",
    ),
    ("Of what colour is the bar with the biggest value?", "The tallest bar has which colour?"),
)
LOWEST: Wordings = (
    ("Which colour is the lowest bar?", "What colour has the shortest bar?", "Which bar is the smallest?"),
    ("Of what colour is the bar with the least value?", "The shortest bar has which colour?"),
)
COUNT: Wordings = (
    ("How many {parts} does the chart have?", "Count the {parts}.", "How many {parts} are there?"),
    ("What is the number of {parts}?", "How many {parts} do you see here?"),
)
VALUE: Wordings = (
    (
        "What is the value of the {colour} bar?",
        "How high is the {colour} bar?",
        "Which value does {colour} have?",
    ),
    ("What does the {colour} bar stand at?", "Give the value shown in {colour}."),
)
MAXIMUM: Wordings = (
    ("What is the largest value?", "What is the highest number?", "What is the maximum?"),
    ("Which number is the biggest?", "Give the greatest value."),
)
COMPARE: Wordings = (
    ("Is {a} higher than {b}?", "Is the {a} bar taller than the {b} bar?", "Is {a} larger than {b}?"),
    ("Does {a} exceed {b}?", "Is the {a} one bigger than the {b} one?"),
)
SLICE_BIG: Wordings = (
    (
        "Which slice is the largest?",
        "What colour is the biggest slice?",
        "Which colour has the largest share?",
    ),
    ("Which colour takes up most of the pie?", "Of what colour is the widest slice?"),
)
SLICE_SMALL: Wordings = (
    (
        "Which slice is the smallest?",
        "What colour is the thinnest slice?",
        "Which colour has the smallest share?",
    ),
    ("Which colour takes up least of the pie?", "Of what colour is the narrowest slice?"),
)
LINE_END: Wordings = (
    ("Which line ends highest?", "Which colour is on top at the right end?", "What colour finishes highest?"),
    ("Which line is highest at the last point?", "What colour ends at the greatest value?"),
)
TREND: Wordings = (
    (
        "Is the {colour} line rising or falling?",
        "Does {colour} go up or down? Say rising or falling.",
        "Is the trend of {colour} rising or falling?",
    ),
    ("Would you call the {colour} curve rising or falling?", "Rising or falling: the {colour} line?"),
)
TITLE: Wordings = (
    ("What is the title of this chart?", "What is written above the chart?", "Read the title."),
    ("Which word is the chart's title?", "What does the heading say?"),
)


@dataclass(frozen=True, slots=True)
class _Plot:
    canvas: Canvas
    rng: random.Random
    split: str
    box: tuple[int, int, int, int]
    ink: tuple[int, int, int]
    outline: bool


def draw(rng: random.Random, split: str, assets: Assets) -> Scene:
    """A chart; about a third carry a printed title, a question for the reader of text."""
    width, height = rng.choice([(512, 512), (512, 400), (480, 512), (512, 352)])
    ground = shade(GROUNDS[rng.choice(["white", "white", "gray", "blue", "yellow", "black"])], rng, 4)
    canvas = Canvas((width, height), ground)
    ink = ink_for(ground, rng)
    titled = rng.random() < 0.35
    top = 70 if titled else rng.randint(18, 40)
    box = (rng.randint(30, 70), top, width - rng.randint(16, 50), height - rng.randint(24, 48))
    plot = _Plot(canvas, rng, split, box, ink, rng.random() < (0.7 if split == "test" else 0.3))
    kind = rng.choice(["bar", "bar", "line", "pie"])
    questions = {"bar": _bars, "line": _lines, "pie": _pie}[kind](plot)
    if titled:
        word = rng.choice(SIGN_WORDS)
        font = assets.font(rng, rng.randint(30, 44), split)
        x0, y0, x1, y1 = canvas.pen.textbbox((0, 0), word, font=font)
        x, y = (width - x1) // 2, rng.randint(6, 14)
        canvas.pen.text((x, y), word, font=font, fill=ink)
        canvas.mark((word,), (x + x0, y + y0, x + x1, y + y1))
        questions.append(Question(say(TITLE, split, rng), word, "text", ("nano-text",)))
    canvas.mark_all((kind, "chart"))
    return Scene(canvas.image, "chart", canvas.marks, tuple(questions))


def _ask(plot: _Plot, wordings: Wordings, answer: str, plain: bool = True, **values: str) -> Question:
    return Question(say(wordings, plot.split, plot.rng, **values), answer, "chart", EXPERT, plain)


def _axes(plot: _Plot) -> None:
    x0, y0, x1, y1 = plot.box
    pen = plot.canvas.pen
    if plot.rng.random() < 0.6:
        ground: Any = plot.canvas.image.getpixel((2, 2))
        soft = tuple((3 * a + b) // 4 for a, b in zip(ground, plot.ink, strict=True))
        for step in range(1, 11):
            y = y1 - (y1 - y0) * step / 10
            pen.line((x0, y, x1, y), fill=soft, width=1)
    pen.line((x0, y0, x0, y1), fill=plot.ink, width=2)
    pen.line((x0, y1, x1, y1), fill=plot.ink, width=2)


def _bars(plot: _Plot) -> list[Question]:
    rng, (x0, y0, x1, y1) = plot.rng, plot.box
    names = rng.sample(list(COLOURS), rng.randint(3, 6))
    values = rng.sample(range(1, 11), len(names))
    _axes(plot)
    slot = (x1 - x0) / len(names)
    fill = rng.uniform(0.45, 0.95)
    order = sorted(range(len(names)), key=lambda i: values[i])
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        left = x0 + slot * (i + (1 - fill) / 2)
        top = y1 - (y1 - y0) * value / 10
        bar = (left, top, left + slot * fill, y1)
        plot.canvas.pen.rectangle(
            bar, fill=shade(COLOURS[name], rng, 14), outline=plot.ink if plot.outline else None
        )
        rank = {order[-1]: ("highest",), order[0]: ("lowest",)}.get(i, ())
        plot.canvas.mark((name, NUMBERS[value], "bar", *rank), bar)
    a, b = rng.sample(range(len(names)), 2)
    plot.canvas.mark_rest((NUMBERS[len(names)],))
    return [
        _ask(plot, HIGHEST, names[order[-1]]),
        _ask(plot, LOWEST, names[order[0]]),
        _ask(plot, COUNT, NUMBERS[len(names)], parts="bars"),
        _ask(plot, VALUE, NUMBERS[values[a]], colour=names[a]),
        _ask(plot, MAXIMUM, NUMBERS[max(values)], plain=False),
        _ask(plot, COMPARE, "yes" if values[a] > values[b] else "no", plain=False, a=names[a], b=names[b]),
    ]


def _lines(plot: _Plot) -> list[Question]:
    rng, (x0, y0, x1, y1) = plot.rng, plot.box
    names = rng.sample(list(COLOURS), rng.randint(2, 4))
    ends = rng.sample(range(1, 11), len(names))
    _axes(plot)
    questions = []
    for name, end in zip(names, ends, strict=True):
        rising = end > 5 if end in (1, 2, 9, 10) else rng.random() < 0.5
        start = rng.uniform(0, end - 1) if rising else rng.uniform(end + 1, 10.5)
        values = [
            start + (end - start) * t / 4 + (rng.uniform(-0.5, 0.5) if 0 < t < 4 else 0) for t in range(5)
        ]
        points = [(x0 + (x1 - x0) * t / 4, y1 - (y1 - y0) * max(0.0, v) / 10.5) for t, v in enumerate(values)]
        colour = shade(COLOURS[name], rng, 14)
        plot.canvas.pen.line(points, fill=colour, width=rng.randint(4, 9), joint="curve")
        trend = "rising" if rising else "falling"
        top = ("highest",) if end == max(ends) else ()
        for x, y in points:
            plot.canvas.mark((name, trend), (x - 14, y - 14, x + 14, y + 14))
        x, y = points[-1]
        plot.canvas.mark((name, trend, *top), (x - 30, y - 20, x + 6, y + 20))
        questions.append(_ask(plot, TREND, trend, colour=name))
    plot.canvas.mark_rest((NUMBERS[len(names)],))
    return [
        rng.choice(questions),
        _ask(plot, LINE_END, names[ends.index(max(ends))]),
        _ask(plot, COUNT, NUMBERS[len(names)], parts="lines"),
    ]


def _pie(plot: _Plot) -> list[Question]:
    rng, (x0, y0, x1, y1) = plot.rng, plot.box
    names = rng.sample(list(COLOURS), rng.randint(3, 5))
    shares = rng.sample([2, 3, 4, 5, 7, 9, 12], len(names))
    radius = min(x1 - x0, y1 - y0) / 2 * rng.uniform(0.8, 1.0)
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    hole = rng.uniform(0.3, 0.5) if rng.random() < (0.6 if plot.split == "test" else 0.2) else 0.0
    angle, total = rng.uniform(0, 360), sum(shares)
    for name, share in zip(names, shares, strict=True):
        sweep = 360 * share / total
        plot.canvas.pen.pieslice(
            (cx - radius, cy - radius, cx + radius, cy + radius),
            angle,
            angle + sweep,
            fill=shade(COLOURS[name], rng, 14),
            outline=plot.ink if plot.outline else None,
        )
        middle = math.radians(angle + sweep / 2)
        x, y = cx + math.cos(middle) * radius * 0.68, cy + math.sin(middle) * radius * 0.68
        reach = max(10.0, radius * min(0.3, sweep / 360))
        rank = ("largest",) if share == max(shares) else ("smallest",) if share == min(shares) else ()
        plot.canvas.mark((name, "slice", *rank), (x - reach, y - reach, x + reach, y + reach))
        angle += sweep
    if hole:
        ground = plot.canvas.image.getpixel((2, 2))
        inner = radius * hole
        plot.canvas.pen.ellipse((cx - inner, cy - inner, cx + inner, cy + inner), fill=ground)
    a, b = rng.sample(range(len(names)), 2)
    plot.canvas.mark_rest((NUMBERS[len(names)],))
    return [
        _ask(plot, SLICE_BIG, names[shares.index(max(shares))]),
        _ask(plot, SLICE_SMALL, names[shares.index(min(shares))]),
        _ask(plot, COUNT, NUMBERS[len(names)], parts="slices"),
        _ask(plot, COMPARE, "yes" if shares[a] > shares[b] else "no", plain=False, a=names[a], b=names[b]),
    ]
