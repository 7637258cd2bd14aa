"""An expert that mova-nano was not trained with is routed to from its description alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import mova_core
from mova_core.cards.resolve import usable_expert
from mova_core.model.assistant import Mova

ROOT = Path(__file__).parents[2]
CLOCK = ROOT / "examples" / "images" / "clock.png"
COFFEE = ROOT / "examples" / "images" / "coffee.jpg"


@pytest.fixture(scope="module")
def mova() -> Mova:
    return mova_core.load("mova-nano")


@pytest.mark.parametrize("question", ["What time is it?", "Which hour does the short hand point to?"])
def test_a_question_about_the_time_goes_to_the_clock_reader(mova: Mova, question: str) -> None:
    pool = [*mova.pool, usable_expert("clock").card]
    assert "clock" in mova.route(CLOCK, question, pool=pool).experts


@pytest.mark.parametrize(
    ("image", "question"),
    [(COFFEE, "Is there a spoon in the picture?"), (CLOCK, "Which slice is the largest?")],
)
def test_other_questions_do_not(mova: Mova, image: Path, question: str) -> None:
    pool = [*mova.pool, usable_expert("clock").card]
    assert "clock" not in mova.route(image, question, pool=pool).experts
